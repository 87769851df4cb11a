"""Reading untrusted HDF5 files: follows no links out of the file, and bounds the memory."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from disk.errors import ArtifactError

# bytes in memory that any dataset may take, and for larger ones the maximum ratio of memory to storage: a few kilobytes
# of compressed zeros can expand to terabytes
_SMALL, _MOST_TIMES = 1 << 30, 20
_HEAP, _HEAPS_WITHIN = b"GCOL\1\0\0\0", 256 << 20  # larger files are not searched for heaps


def open_h5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading; ArtifactError if it is missing or not an HDF5 file."""
    if not path.is_file():
        raise ArtifactError(f"no file {path}")
    with reading(path):
        _check_heaps(path)
        return h5py.File(path, "r", locking=False)  # its lock fails on some network file systems; ours are elsewhere


@contextlib.contextmanager
def reading(file: Path | str | h5py.Group | h5py.Dataset) -> Iterator[None]:
    """Turn any error of HDF5 over a damaged or unexpected file into a one-line ArtifactError."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, NotImplementedError, struct.error) as error:
        path = file if isinstance(file, Path | str) else file.file.filename
        raise ArtifactError(
            f"{path} cannot be read as HDF5 ({reason(error)}); it is damaged or not an HDF5 file"
        ) from error


def dataset_keys(group: h5py.Group) -> list[str]:
    """The sorted paths of all datasets below a group, at any depth; skips links."""
    keys: list[str] = []

    def visit(key: bytes, item: Any) -> None:
        if item.type == h5py.h5o.TYPE_DATASET:
            keys.append(key.decode())

    with reading(group):
        h5py.h5o.visit(group.id, visit, info=True)  # visititems opens every item, which takes five times as long
    return sorted(keys)


def stored_dataset(group: h5py.Group, key: str) -> h5py.Dataset | None:
    """The dataset under a key; None if there is none.

    Raises ArtifactError if it is behind a link or its data lie outside the file: an untrusted file could point to any
    other file on this machine.
    """
    with reading(group):
        parts = key.split("/")
        for end in range(1, len(parts) + 1):
            path = "/".join(parts[:end]).encode()
            if not group.id.links.exists(path):
                return None
            if group.id.links.get_info(path).type != h5py.h5l.TYPE_HARD:
                raise ArtifactError(
                    f"{group.file.filename}: {key!r} is a link, which is not followed; copy the data into the file"
                )
        item = group[key]
        if not isinstance(item, h5py.Dataset):
            return None
        if item.is_virtual or item.external:
            raise ArtifactError(
                f"{group.file.filename}: {key!r} lies in other files, which are not read; copy the data into the file"
            )
        return item


def stored_attributes(item: h5py.File | h5py.Dataset) -> dict[str, Any]:
    """The attributes of a file or dataset; ArtifactError if they are damaged."""
    with reading(item):
        return dict(item.attrs.items())


def read_numbers(dataset: h5py.Dataset) -> np.ndarray:
    """All values of a dataset of numbers.

    Raises ArtifactError for other kinds of values, damaged data, a filter that is not installed, and a dataset that
    would take far more memory than space in the file.
    """
    with reading(dataset):
        dtype = dataset.dtype
        if dtype.kind not in "fiu" or dataset.shape is None:
            raise ArtifactError(f"{dataset.file.filename}: {dataset.name} holds {dtype}, not numbers")
        filters = dataset.id.get_create_plist()
        codes = [filters.get_filter(number)[0] for number in range(filters.get_nfilters())]
        missing = [code for code in codes if not h5py.h5z.filter_avail(code)]
        if missing:
            raise ArtifactError(
                f"{dataset.file.filename}: {dataset.name} is compressed by HDF5's filter {missing[0]}, which is not "
                "installed; use gzip"
            )
        size = dataset.size * dtype.itemsize
        if size > max(_SMALL, _MOST_TIMES * (stored := dataset.id.get_storage_size())):
            raise ArtifactError(
                f"{dataset.file.filename}: {dataset.name} would take {size / 2**30:.0f} GB of memory, but has {stored} "
                "bytes in the file: it is damaged or malicious"
            )
        return np.asarray(dataset[()])


def read_datasets(path: Path, keys: Sequence[str]) -> list[np.ndarray]:
    """The numbers under each of the keys of a file; ArtifactError if one is missing, or as for `read_numbers`."""
    with open_h5(path) as file:
        found = [stored_dataset(file, key) for key in keys]
        missing = [key for key, dataset in zip(keys, found, strict=True) if dataset is None]
        if missing:
            raise ArtifactError(f"{path} has no {missing[0]!r}")
        return [read_numbers(dataset) for dataset in found if dataset is not None]


def _check_heaps(path: Path) -> None:
    """Raise ValueError for a damaged heap of strings, on which HDF5 would loop forever.

    A heap is `GCOL`, version 1, its size, then objects: index, references, size, content; index 0 is free space.
    """
    with path.open("rb") as file:
        if not 0 < path.stat().st_size <= _HEAPS_WITHIN:
            return
        # a private map: network file systems may refuse shared ones
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as content:
            start = content.find(_HEAP)
            while start >= 0:
                at = start + 16
                end = start + int.from_bytes(content[start + 8 : at], "little")
                while end - at >= 16:
                    index, size = struct.unpack_from("<H6xQ", content, at)
                    need = 16 + -(-size // 8) * 8 if index else size
                    if not 16 <= need <= end - at:
                        raise ValueError("a heap of strings is damaged")
                    at += need
                start = content.find(_HEAP, start + 1)


def reason(error: BaseException) -> str:
    """The reason of an error: the system's message, which HDF5 hides in a long one, if there is one."""
    number = getattr(error, "errno", None)
    if number is None and "errno = " in str(error):
        number = int(str(error).partition("errno = ")[2].partition(",")[0])
    return os.strerror(number) if number else str(error).strip("'\"")
