"""Reading HDF5 files on file systems without locks or shared memory mapping."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from disk.errors import ArtifactError
from disk.storage.forget import forget_images
from disk.storage.reading import open_h5
from disk.storage.shards import ShardWriter


def test_hdf5_locks_are_not_used(tmp_path: Path) -> None:
    """They fail where there is no lock service; a lock held by another process simulates that."""
    with h5py.File(tmp_path / "keypoints.h5", "w") as file:
        file["a"] = file["b"] = np.zeros(3)
    with (tmp_path / "keypoints.h5").open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(OSError, match="unable to lock file"):
            h5py.File(tmp_path / "keypoints.h5", "r", locking=True)
        with open_h5(tmp_path / "keypoints.h5") as file:
            assert sorted(file) == ["a", "b"]


def test_files_that_cannot_be_mapped_into_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def private_alone(*arguments: Any, access: int = mmap.ACCESS_WRITE) -> mmap.mmap:
        if access != mmap.ACCESS_COPY:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return map_file(*arguments, access=access)

    map_file = mmap.mmap
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["text"] = ["a heap", "of strings"]
    monkeypatch.setattr(mmap, "mmap", private_alone)
    with open_h5(path) as file:
        assert list(file) == ["text"]
    path.write_bytes(path.read_bytes().replace(b"GCOL\1\0\0\0", b"GCOL\1\0\0\0\xff\xff"))
    with pytest.raises(ArtifactError, match="damaged"):
        open_h5(path)


def test_images_are_forgotten_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every modified file is opened without HDF5's locks."""
    writer = ShardWriter(tmp_path, "features", ["keypoints.h5"], {"format": "test"}, shard_bytes=1)
    for key in ("a", "b"):
        writer.add(key, {"keypoints.h5": np.zeros(3)})
    opened: list[Any] = []
    plain = h5py.File

    class Spy(plain):
        def __init__(self, name: Any, mode: str = "r", **options: Any) -> None:
            if isinstance(name, Path):
                opened.append(options.get("locking"))
            super().__init__(name, mode, **options)

    monkeypatch.setattr(h5py, "File", Spy)
    writer.finish()
    forget_images(tmp_path, ["a"])
    assert opened
    assert set(opened) == {False}
    with open_h5(tmp_path / "keypoints.h5") as file:
        assert list(file) == ["b"]
