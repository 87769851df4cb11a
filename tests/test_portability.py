"""Other systems, simulated: Windows and macOS, and file systems that differ from those of Linux."""

from __future__ import annotations

import errno
import os
import pickle
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from disk import devices
from disk.datasets import download as dataset_download
from disk.datasets.tuples import TupleDataset
from disk.errors import ArtifactError, DatasetError
from disk.images import listing
from disk.images.listing import list_images
from disk.pipeline.detect import DetectOptions, detect
from disk.pipeline.export import ExportOptions, export
from disk.pipeline.match import match
from disk.pipeline.match_options import MatchOptions
from disk.pipeline.verify import VerifyOptions, verify
from disk.pipeline.view import picture_name
from disk.storage import download, new_file
from disk.storage.names import find_name
from disk.storage.new_file import write_text
from disk.training import watch
from disk.training.data import _Passes
from textured import textured_photo


class Windows:
    """The module os, as on Windows."""

    name = "nt"

    def __getattr__(self, name):
        if name in ("sched_getaffinity", "getloadavg", "sysconf"):
            raise AttributeError(name)
        return getattr(os, name)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES, errno.EPERM, errno.ENOTSUP])
def test_a_folder_that_cannot_be_synced_is_no_error(monkeypatch, tmp_path, number):
    real = os.fsync

    def fsync(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir():
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "text"


def test_a_disk_that_fails_during_a_folder_sync_is_an_error(monkeypatch, tmp_path):
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:  # the file, then its folder
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ArtifactError, match="cannot write"):
        write_text(tmp_path / "file", "text")


def test_windows_opens_no_folder(monkeypatch, tmp_path):
    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(new_file, "os", Windows())
    monkeypatch.setattr(os, "open", refuse)
    new_file.sync_folder(tmp_path)


@pytest.mark.parametrize("scans", [3, 10**9])
def test_a_file_that_a_scanner_has_open_is_retried(monkeypatch, tmp_path, scans):
    real, tries = Path.replace, []

    def replace(self, target):
        tries.append(target)
        if len(tries) <= scans:
            raise PermissionError(errno.EACCES, "Access is denied", str(target))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(new_file, "_PATIENCE", 0.2)
    with pytest.raises(ArtifactError):  # elsewhere the error does not go away
        write_text(tmp_path / "file", "text")
    assert len(tries) == 1
    tries.clear()
    monkeypatch.setattr(new_file, "os", Windows())
    if scans == 3:
        write_text(tmp_path / "file", "text")
        assert (tmp_path / "file").read_text(encoding="utf-8") == "text"
    else:
        with pytest.raises(ArtifactError, match="Access is denied"):
            write_text(tmp_path / "file", "text")
        assert not list(tmp_path.iterdir())


@pytest.fixture
def open_files_stay(monkeypatch):
    """As on Windows: open files, including locks, cannot be deleted or replaced."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs a list of open files")

    def refuse_open(path):
        wanted = os.path.realpath(path)
        for descriptor in os.listdir("/proc/self/fd"):
            try:
                there = os.readlink(f"/proc/self/fd/{descriptor}")
            except OSError:
                continue
            if there == wanted:
                raise PermissionError(errno.EACCES, "The process cannot access the file, it is open", str(path))

    real = {name: getattr(os, name) for name in ("replace", "rename", "unlink", "remove")}

    def replace(source, target, **rest):
        refuse_open(source)
        refuse_open(target)
        return real["replace"](source, target, **rest)

    def unlink(path, **rest):
        if "dir_fd" not in rest:  # as shutil.rmtree does
            refuse_open(path)
        return real["unlink"](path, **rest)

    for name, function in {"replace": replace, "rename": replace, "unlink": unlink, "remove": unlink}.items():
        monkeypatch.setattr(os, name, function)
    monkeypatch.setattr(Path, "replace", lambda self, target: replace(self, target) or Path(target))

    def unlink_path(self, missing_ok=False):
        try:
            unlink(self)
        except FileNotFoundError:
            if not missing_ok:
                raise

    monkeypatch.setattr(Path, "unlink", unlink_path)


def test_the_simulation_keeps_open_files(open_files_stay, tmp_path):
    path = tmp_path / "file"
    path.write_text("text", encoding="utf-8")
    with path.open(encoding="utf-8"):
        for attempt in (path.unlink, lambda: os.remove(path), lambda: (tmp_path / "other").replace(path)):
            with pytest.raises(PermissionError):
                attempt()
    path.unlink()


def test_no_open_file_is_replaced_or_removed(open_files_stay, photo_folder, tmp_path):
    artifacts = tmp_path / "artifacts"

    def run(overwrite):
        detect(artifacts, photo_folder, DetectOptions(n=80, device="cpu", workers=1, overwrite=overwrite))
        match(artifacts, MatchOptions(device="cpu", overwrite=overwrite))
        export(artifacts, photo_folder, ExportOptions(overwrite=True))
        return verify(artifacts, VerifyOptions(overwrite=overwrite))

    run(overwrite=False)
    Image.fromarray(textured_photo(64, 96, seed=9)).save(photo_folder / "a.jpg", quality=95)  # changed
    Image.fromarray(textured_photo(64, 96, seed=10)).save(photo_folder / "new.jpg", quality=95)
    run(overwrite=False)
    run(overwrite=True)


def test_a_downloads_lock_may_stay(open_files_stay, tmp_path):
    target = tmp_path / "file"
    with download._alone(target):
        target.write_text("text", encoding="utf-8")
    with download._alone(target):
        pass
    assert target.read_text(encoding="utf-8") == "text"


def test_folders_without_inode_numbers_are_told_apart(monkeypatch, tmp_path):
    """Windows network drives do not number files."""
    for name in ("a/1.png", "b/1.png", "b/c/1.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(path)
    (tmp_path / "b" / "again").symlink_to(tmp_path / "a", target_is_directory=True)
    real = Path.stat

    def stat(self, **rest):
        there = real(self, **rest)
        return SimpleNamespace(st_mode=there.st_mode, st_dev=0, st_ino=0, st_size=there.st_size)

    monkeypatch.setattr(listing.Path, "stat", stat)
    assert [image.name for image in list_images(tmp_path)] == ["a/1", "b/1", "b/c/1"]


def test_names_are_found_in_either_unicode_form():
    composed, apart = (unicodedata.normalize(form, "café/é1") for form in ("NFC", "NFD"))
    assert composed != apart
    for known in (composed, apart):  # folders on macOS hold the second
        for typed in (composed, apart, f"{composed}.jpg", composed.replace("/", "\\")):
            assert find_name(typed, {known}) == known


def test_images_are_listed_with_extensions_in_any_case(tmp_path):
    for name in ("a.JPG", "B.Png"):
        Image.new("L", (4, 4)).save(tmp_path / name, "png")
    assert [image.name for image in list_images(tmp_path)] == ["B", "a"]
    assert [image.name for image in list_images(tmp_path, "PNG")] == ["B"]
    assert all("\\" not in image.relative for image in list_images(tmp_path))


def test_pictures_have_valid_names_on_windows():
    pairs = [("a/1", "b:2"), ("a%2F1", "b:2"), ("a/1", "b?2"), ('x"<y>|*', "c\\d"), ("a:1", "b:2")]
    names = [picture_name(pair) for pair in pairs]
    assert len(set(names)) == len(names)
    assert not any(re.search(r'[\\/:*?"<>|]', name) for name in names)
    assert names[0] == "a%2F1--b%3A2"


def test_cores_and_load_where_the_system_does_not_report_them(monkeypatch):
    monkeypatch.setattr(devices, "os", Windows())
    assert devices.usable_cores() == os.cpu_count()
    assert devices.load_average() == 0.0
    assert not devices.crowded()


def test_signals_where_they_cannot_be_blocked(monkeypatch):
    names = ("SIGINT", "SIGTERM", "SIG_IGN", "signal", "Signals", "raise_signal")
    import signal

    fewer = SimpleNamespace(**{name: getattr(signal, name) for name in names})
    monkeypatch.setattr(watch, "signal", fewer)
    with watch.signals_blocked():
        pass
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        watch.leave_signals_to_parent()
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


def test_what_loader_processes_receive_can_be_pickled():
    """Without fork, loader processes are sent everything they need."""
    tuples = object.__new__(TupleDataset)
    vars(tuples).update(scenes=[], _chosen=np.zeros((3, 2), np.int64))
    copy = pickle.loads(pickle.dumps(_Passes(tuples)))
    assert len(copy.dataset) == 3
    assert pickle.loads(pickle.dumps(watch.leave_signals_to_parent)) is watch.leave_signals_to_parent


def test_a_link_that_windows_refuses_is_explained(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(DatasetError, match=r"privilege is not held.*developer mode"):
        dataset_download._link("megadepth", tmp_path / "train")


def test_a_console_that_cannot_show_a_letter_shows_its_code(tmp_path):
    home = tmp_path / "Bücher"
    home.mkdir()
    (home / "depth-save.pth").write_bytes(b"")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "DISK_HOME": str(home)}
    command = [sys.executable, "-m", "disk", "weights", "list"]
    done = subprocess.run(command, capture_output=True, encoding="ascii", env=environment)
    assert done.returncode == 0, done.stderr
    assert "B\\xfccher" in done.stdout
