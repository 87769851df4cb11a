"""Locks that keep two runs from writing to the same place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from disk.errors import ArtifactError


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Create a folder and lock it for this run; ArtifactError if another run holds it or it is not writable."""
    with _lock(folder / ".lock", folder):
        yield


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Lock a file, which need not exist yet, for this run; errors as for `folder_lock`."""
    with _lock(path.with_name(f".{path.name}.lock"), path):
        yield


@contextlib.contextmanager
def _lock(lock: Path, held: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = FileLock(lock, timeout=0)
        handle.acquire()
    except Timeout:
        raise ArtifactError(f"{held} is in use by another run; wait for it or use another") from None
    except OSError as error:
        raise ArtifactError(f"cannot write in {lock.parent}: {error.strerror or error}") from error
    try:
        yield
    finally:
        handle.release()
