"""Calls known to fail on Windows and macOS are absent from the package, or allowed for a reason.

The first half searches the source for such calls, the second half simulates those systems.
"""

from __future__ import annotations

import ast
import errno
import os
import pickle
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
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

SOURCE = Path(__file__).parents[1] / "src" / "disk"

# allowed exceptions, as (file, trap): reason
ALLOWED = {
    ("storage/new_file.py", "import fcntl"): "of macOS, where sys.platform says so",
    ("datasets/download.py", "os.symlink"): "Windows asks for a privilege; the error says what to do",
    ("training/rendering.py", "'/dev/shm'"): "only where it is a folder",
    ("devices.py", "'/proc/cpuinfo'"): "without it the name comes from the platform module",
    ("devices.py", "'/proc/meminfo'"): "without it half of the memory counts as free",
    ("devices.py", "'/proc/self/cgroup'"): "without it there is no limit",
    ("devices.py", "'/sys/fs/cgroup'"): "without it there is no limit",
    ("devices.py", "'/proc/self/statm'"): "without it there is no limit",
    ("devices.py", "import resource"): "only where the module is found",
}

POSIX_ONLY = {
    "os": "fork forkpty getuid geteuid getgid getegid getpgid setsid killpg kill mkfifo mknod chown lchown chroot nice "
    "uname statvfs pread pwrite wait waitpid ttyname openpty O_DIRECTORY O_NOFOLLOW O_CLOEXEC O_SYNC",
    "signal": "SIGKILL SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGPIPE SIGSTOP SIGCONT alarm setitimer "
    "siginterrupt sigwait pthread_kill",
    "time": "clock_gettime tzset",
    "socket": "AF_UNIX",
}
# exist on some systems only, so the same file must check with hasattr
ASKED_FOR = {"sched_getaffinity", "getloadavg", "sysconf", "pthread_sigmask", "posix_fadvise", "fdatasync"}
MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "crypt", "readline", "syslog"}
OPENERS = {"Image", "tarfile", "zipfile", "gzip", "webbrowser", "Database", "os", "h5py", "_OPENER", "av"}


def traps(source: str) -> Iterator[str]:
    """Find the known traps of a module."""
    asked = set(re.findall(r"hasattr\(\w+, \"(\w+)\"\)", source))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"import {name}" for name in names if name in MODULES)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in POSIX_ONLY.get(node.value.id, "").split():
                yield f"{node.value.id}.{node.attr}"
            elif node.attr in ASKED_FOR - asked:
                yield f"{node.value.id}.{node.attr} without hasattr"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.match(r"/(tmp|dev|proc|sys|var|etc|usr)(/\S*)?$", node.value) or node.value == "HOME":
                yield repr(node.value)
            if re.search(r"%-[dmHIMSjy]", node.value):
                yield f"strftime {node.value}"
        if isinstance(node, ast.Call):
            yield from _traps_of_call(node)


def _traps_of_call(call: ast.Call) -> Iterator[str]:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    words = [part.value for part in [*call.args, *given.values()] if isinstance(part, ast.Constant)]
    owner = ""
    if isinstance(call.func, ast.Attribute):
        name, inner = call.func.attr, call.func.value
        owner = inner.id if isinstance(inner, ast.Name) else inner.attr if isinstance(inner, ast.Attribute) else "?"
    else:
        name = call.func.id if isinstance(call.func, ast.Name) else ""
    if name in ("open", "fdopen") and owner not in OPENERS:
        mode = given.get("mode") or (call.args[1:] if not owner else call.args[:1] or [None])[0:1]
        mode = mode[0] if isinstance(mode, list) and mode else mode
        binary = isinstance(mode, ast.IfExp) or (isinstance(mode, ast.Constant) and "b" in str(mode.value))
        if not binary and "encoding" not in given:
            yield "open without encoding"
    if owner and name == "read_text" and "encoding" not in given and not call.args:
        yield "read_text without encoding"
    if owner and name == "write_text" and "encoding" not in given and len(call.args) < 2:
        yield "write_text without encoding"
    if owner == "subprocess" and ("text" in given or "universal_newlines" in given) and "encoding" not in given:
        yield "subprocess without encoding"
    if owner == "subprocess" and {"preexec_fn", "shell", "start_new_session"} & set(given):
        yield "subprocess by a shell or with preexec_fn"
    if name == "rename" and owner not in ("", "?"):
        yield "rename instead of replace"
    if name in ("symlink", "symlink_to", "link", "hardlink_to"):
        yield f"os.{name}"
    if name in ("get_context", "set_start_method") and ({"fork", "forkserver"} & set(map(str, words)) or not words):
        yield "a start method that is not everywhere"
    if name == "ProcessPoolExecutor" and len(call.args) < 2 and "mp_context" not in given:
        yield "processes by the start method of the system"
    of_text = isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Call)
    if name in ("split", "rsplit", "partition", "replace") and words[:1] == ["/"] and of_text:
        made = call.func.value.func  # type: ignore[attr-defined]
        if isinstance(made, ast.Name) and made.id in ("str", "fspath"):
            yield "a path taken apart at '/'"


def test_the_source_has_no_known_traps():
    found = {
        (path.relative_to(SOURCE).as_posix(), trap)
        for path in SOURCE.rglob("*.py")
        for trap in traps(path.read_text(encoding="utf-8"))
    }
    assert found - set(ALLOWED) == set()
    assert set(ALLOWED) - found == set()  # no allowance without a trap


@pytest.mark.parametrize(
    "code",
    [
        "os.fork()", "os.kill(1, 9)", "x = signal.SIGKILL", "import resource", "from fcntl import flock",
        "os.sched_getaffinity(0)", "os.getloadavg()", "open(path)", "open(path, 'w')", "path.open()", "path.open('a')",
        "open(path, mode='r')", "path.read_text()", "path.write_text('x')", "os.rename(a, b)", "path.rename(b)",
        "x = '/tmp/file'", "x = '/dev/null'", "os.environ['HOME']", "now.strftime('%-d')", "ProcessPoolExecutor(4)",
        "multiprocessing.get_context('fork')", "multiprocessing.set_start_method('fork')", "str(path).split('/')",
        "multiprocessing.get_context()", "subprocess.run(x, text=True)", "subprocess.run(x, shell=True)",
        "os.symlink(a, b)", "x.symlink_to(b)", "os.uname()",
    ],
)  # fmt: skip
def test_each_trap_is_seen(code):
    assert list(traps(code))


@pytest.mark.parametrize(
    "code",
    [
        'x = os.getloadavg() if hasattr(os, "getloadavg") else 0', "open(path, 'rb')", "open(path, encoding='utf-8')",
        "path.open('wb')", "path.read_text(encoding='utf-8')", "write_text(path, 'x')", "text.replace('/', '|')",
        "multiprocessing.get_context('spawn')", "ProcessPoolExecutor(4, context)", "os.replace(a, b)", "Image.open(x)",
        "x = '/images'", "signal.SIGTERM",
    ],
)  # fmt: skip
def test_what_works_everywhere_is_no_trap(code):
    assert not list(traps(code))


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
