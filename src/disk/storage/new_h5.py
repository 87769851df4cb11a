"""Atomic HDF5 files, even on a full disk."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py

from disk.errors import ArtifactError
from disk.storage.new_file import put_in_place, temporary_of


@contextlib.contextmanager
def new_h5(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file, renamed to `path` when the block ends; ArtifactError if it cannot be written."""
    temporary = temporary_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = _Patient(temporary, "w+b")
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        try:
            with raw, h5py.File(raw, "w") as file:
                yield file
        except Exception:
            if raw.error is None:
                raise
        if raw.error is not None:
            raise ArtifactError(f"cannot write {path}: {raw.error.strerror or raw.error}; make room") from raw.error
        put_in_place(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


class _Patient(io.FileIO):
    """A file that records its first error and pretends that later writes succeed.

    HDF5 must not see a full disk: it then fails at every later call and in the end crashes the process.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        view, done = memoryview(data).cast("B"), 0
        while done < len(view) and self.error is None:
            done += self._try(super().write, view[done:]) or 0
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        return self._try(super().truncate, size) or 0

    def _try(self, call: Callable[[Any], int | None], argument: Any) -> int | None:
        try:
            return call(argument) if self.error is None else None
        except OSError as error:
            self.error = error
            return None
