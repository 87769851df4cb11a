"""New files that appear whole or not at all, also after a power cut: written under another name, synced, renamed."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py

from disk.errors import ArtifactError


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """The name to write under until the block ends; then the file is synced and gets its own name.

    Raises ArtifactError when it cannot be written. Whatever was there stays until then.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        put_in_place(temporary, path)
    except OSError as error:
        raise ArtifactError(
            f"cannot write {path}: {error.strerror or error}; make room, or choose another place"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all; errors as for `new_file`."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all; errors as for `new_file`."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def put_in_place(temporary: Path, path: Path) -> None:
    """Sync a complete file and give it its name, in place of what had it. Raises OSError."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


@contextlib.contextmanager
def new_h5(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file that gets its name when it is complete; ArtifactError when it cannot be written."""
    temporary = path.with_name(f".{path.name}.tmp")
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
    """A file that notes its first error and pretends to go on.

    HDF5 must not see a full disk: it fails again at every later call and in the end crashes the process.
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
