"""Deleting single images or pairs from a folder of artifacts, atomically for each file."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

import h5py

from disk.storage.artifacts import DESCRIPTORS, INLIERS, KEYPOINTS, LOCALIZED, MATCHES, SCORES, UNMATCHED
from disk.storage.names import decode_name
from disk.storage.new_file import new_file
from disk.storage.reading import dataset_keys, open_h5, reading

_OF_PAIRS, _OF_IMAGES = (INLIERS, MATCHES, UNMATCHED), (LOCALIZED, KEYPOINTS, DESCRIPTORS, SCORES)
Pair = tuple[str, str]


def known_images(artifacts: Path) -> set[str]:
    """Names of the images with features, including those in the shards of an interrupted run."""
    names: set[str] = set()
    for path in (artifacts / KEYPOINTS, *artifacts.glob(".features-*.h5")):
        if path.is_file() and h5py.is_hdf5(path):
            with open_h5(path) as file, reading(path):
                group = file.get(KEYPOINTS, file)
                names.update(dataset_keys(group))
    return names


def forget_images(artifacts: Path, names: Collection[str]) -> None:
    """Delete the pairs of these images, then their features. The caller holds `folder_lock`."""
    gone = set(names)
    if gone:
        forget_pairs(artifacts, lambda pair: not gone.isdisjoint(pair))
        _remove(artifacts, _OF_IMAGES, gone.__contains__)


def forget_pairs(artifacts: Path, unwanted: Callable[[Pair], bool]) -> int:
    """Delete pairs from the matches and inliers and return their number. The caller holds `folder_lock`."""

    def is_unwanted(key: str) -> bool:
        first, _, second = key.partition("/")
        return unwanted((decode_name(first), decode_name(second)))

    return _remove(artifacts, _OF_PAIRS, is_unwanted)


def _remove(artifacts: Path, files: Collection[str], unwanted: Callable[[str], bool]) -> int:
    """Delete entries from artifacts and from the shards of interrupted runs, which hold several artifacts."""
    gone: set[str] = set()
    shards = [path for path in artifacts.glob(".*.h5") if re.fullmatch(r"\.[a-z]+-\d+\.h5", path.name)]
    for path in [*(artifacts / file for file in files), *sorted(shards)]:
        if not (path.is_file() and h5py.is_hdf5(path)):
            continue
        with open_h5(path) as file, reading(path):
            groups = {name: f"{name}/" for name in files if name in file} if path in shards else {"": ""}
            keys = [
                (start, key) for name, start in groups.items()
                for key in dataset_keys(file[name] if name else file) if unwanted(key)
            ]  # fmt: skip
        if keys:
            gone.update(key for _, key in keys)
            with new_file(path) as temporary:
                shutil.copyfile(path, temporary)
                with h5py.File(temporary, "r+", locking=False) as file:
                    for start, key in keys:
                        del file[start + key]
    return len(gone)
