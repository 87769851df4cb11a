"""Locks that keep two runs from writing to the same place."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from disk.errors import ArtifactError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what network file systems without locks say


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Create a folder and lock it for this run; ArtifactError if another run holds it or it is not writable.

    If the block raises before anything is written, the folder is deleted again.
    """
    lock = folder / ".lock"
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    with _lock(lock, folder):
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):  # Windows cannot delete the open lock
                _delete_if_unused(lock, made)
            raise


def _delete_if_unused(lock: Path, made: Sequence[Path]) -> None:
    """Delete the folders made for a lock, the innermost first, if there is nothing else in them."""
    if made and {path.name for path in lock.parent.iterdir()} <= {lock.name, _mark(lock).name}:
        lock.unlink(missing_ok=True)
        for folder in made:
            folder.rmdir()


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Lock a file, which need not exist yet, for this run; errors as for `folder_lock`."""
    with _lock(path.with_name(f".{path.name}.lock"), path):
        yield


@contextlib.contextmanager
def _lock(lock: Path, held: Path) -> Iterator[None]:
    from filelock import Timeout

    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = _acquired(lock)
    except Timeout:
        mark = _mark(lock)
        hint = f"; if there is none on any machine, remove {mark}" if mark.exists() else ""
        raise ArtifactError(f"{held} is in use by another run; wait for it or use another{hint}") from None
    except OSError as error:
        raise ArtifactError(f"cannot write in {lock.parent}: {error.strerror or error}") from error
    try:
        yield
    finally:
        handle.release()


def _acquired(lock: Path) -> Any:
    """The lock, held; where the file system has no locks, a file that is there while it is held."""
    from filelock import FileLock, SoftFileLock

    # its own way out would take the empty file of an earlier lock for one that is held
    handle = FileLock(lock, timeout=0, fallback_to_soft=False)
    try:
        handle.acquire()
    except (OSError, NotImplementedError) as error:  # Timeout is an OSError without a number
        if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
            raise
        # a second try after 50 ms: older versions of filelock use up the first to remove the file of a killed run
        handle = SoftFileLock(_mark(lock), timeout=0.1)
        handle.acquire()
    return handle


def _mark(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.held")
