"""Files that appear complete or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from disk.errors import ArtifactError
from disk.storage.new_file import free_bytes, new_file, write_json, write_text
from synthetic_scene import full_disk


def test_it_appears_at_the_end_and_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "file"
    write_text(path, "old ä")
    with new_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text(encoding="utf-8") == "old ä"
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["file"]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})
    with pytest.raises(ZeroDivisionError), new_file(path) as temporary:
        temporary.write_text(f"half {1 / 0}")
    with full_disk(10), pytest.raises(ArtifactError, match=r"cannot write .*file\.json: File too large; make room"):
        write_json(path, {"new": "x" * 1000})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["file.json"]


def test_an_unwritable_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        write_text(tmp_path / "file" / "inside", "x")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "file")
    write_text(tmp_path / "link", "through it")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "file").read_text() == "through it"


def test_a_device_is_written_and_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("renamed over a device")

    monkeypatch.setattr("disk.storage.new_file.put_in_place", refuse)
    write_text(Path("/dev/null"), "nowhere")
    assert Path("/dev/null").is_char_device()


def test_rivals_do_not_share_a_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    with new_file(path, rivals=True) as ours:
        ours.write_text("ours")
        monkeypatch.setattr("os.getpid", lambda: -1)
        with new_file(path, rivals=True) as theirs:
            theirs.write_text("theirs")
        assert path.read_text() == "theirs"
    assert path.read_text() == "ours"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_whose_folders_cannot_be_synced(number, tmp_path, monkeypatch):
    sync = os.fsync

    def files_alone(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", files_alone)
    write_text(tmp_path / "new", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("of_folder", [False, True])
def test_a_failed_sync_is_reported(of_folder, tmp_path, monkeypatch):
    sync = os.fsync

    def fails(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == of_folder:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(ArtifactError, match="Input/output error"):
        write_text(tmp_path / "new", "text")


def test_free_space_that_the_file_system_does_not_report(tmp_path, monkeypatch):
    assert 0 < free_bytes(tmp_path) <= shutil.disk_usage(tmp_path).total
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=0, used=0, free=0))
    assert free_bytes(tmp_path) == math.inf
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=9, used=9, free=0))
    assert free_bytes(tmp_path) == 0
