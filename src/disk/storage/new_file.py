"""Atomic files, even across a power cut: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from disk.errors import ArtifactError


@contextlib.contextmanager
def new_file(path: Path, rivals: bool = False) -> Iterator[Path]:
    """A temporary path to write to; when the block ends, the file is synced and renamed to `path`.

    An existing file stays until then. Symlinks are followed; pipes and devices are written directly.
    rivals: other processes may write the same file at the same time; the last one wins

    Raises ArtifactError if it cannot be written.
    """
    target = Path(os.path.realpath(path))
    special = target.exists() and not target.is_file()
    temporary = target if special else temporary_of(target, f"{os.getpid()}." if rivals else "")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if not special:
            put_in_place(temporary, target)
    except OSError as error:
        raise ArtifactError(
            f"cannot write {path}: {error.strerror or error}; make room, or choose another place"
        ) from error
    finally:
        if not special:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def temporary_of(path: Path, mark: str = "") -> Path:
    """The hidden temporary file beside `path`."""
    return path.with_name(f".{path.name.lstrip('.')}.{mark}tmp")


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file atomically; errors as for `new_file`."""
    with new_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; errors as for `new_file`."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically; errors as for `new_file`."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def put_in_place(temporary: Path, path: Path) -> None:
    """Sync a complete file and rename it to `path`, replacing any file there. Raises OSError."""
    with temporary.open("rb+") as file:
        _sync(file.fileno())
    _replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut, where the file system supports it."""
    if os.name != "posix":  # Windows cannot open folders
        return
    try:
        number = os.open(folder, os.O_RDONLY)
        try:
            _sync(number)
        finally:
            os.close(number)
    except OSError as error:
        if error.errno not in _NO_SYNC_OF_FOLDERS:
            raise


# errors of network file systems, containers and folders that cannot be listed
_NO_SYNC_OF_FOLDERS = {
    errno.EINVAL, errno.EBADF, errno.EACCES, errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP,
}  # fmt: skip
_PATIENCE = 1.0  # seconds


def _sync(number: int) -> None:
    if sys.platform == "darwin":  # its fsync leaves the data in the drive's cache
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(number, fcntl.F_FULLFSYNC)
            return
    os.fsync(number)


def _replace(temporary: Path, path: Path) -> None:
    """Rename; on Windows, wait while the file is open: virus scanners and indexers open new files."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            temporary.replace(path)
            return
        except PermissionError:
            if os.name != "nt" or time.monotonic() > end:
                raise
            time.sleep(0.02)


def free_bytes(folder: Path) -> float:
    """How much can be written in a folder; infinity where the file system does not tell."""
    usage = shutil.disk_usage(folder)
    return float(usage.free) if usage.total else math.inf
