"""Writing HDF5 artifacts so that a crash costs at most ten seconds of work: shards, resume, merge.

Results collect in memory. Every 16 MB or ten seconds they become a shard: a hidden file that is written, synced and
renamed, so a shard under its final name is complete. At the end the shards are merged into the artifacts, each of which
is replaced by a rename. A later run resumes from the complete results, whenever the last one was killed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import h5py
import numpy as np

from disk.errors import ArtifactError
from disk.options import option
from disk.progress import log, progress_bar
from disk.storage.new_file import free_bytes, new_file, temporary_of
from disk.storage.reading import dataset_keys, open_h5, reading, reason, stored_attributes

SHARD_BYTES, SHARD_SECONDS = 16 << 20, 10.0


def remove_artifacts(artifacts: Path, stem: str, files: Sequence[str]) -> None:
    """Delete what a writer of this stem wrote into a folder: its files, and the shards of an interrupted run."""
    for path in [*(artifacts / file for file in files), *_shards(artifacts, stem)]:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def keep_what_is_done(flush: Callable[[], None]) -> Iterator[None]:
    """Call `flush` if the block ends with an error or an interruption, and raise that again."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(ArtifactError):  # the first error has already reported a full disk
            flush()
        raise


class ShardWriter:
    """Adds arrays to several HDF5 files of one folder together: an entry is in all of them or in none.

    The caller holds `folder_lock`; only one thread at a time may use the writer.
    files: names of the artifacts, with .h5
    attributes: written to each file; a run resumes only if they equal those found
    overwrite: delete the old files, just before the first new result is written, so that a run that fails earlier
    deletes nothing
    shard_bytes: maximum size of the results in memory

    Raises ArtifactError, naming what differs, if the attributes found are different.
    """

    def __init__(
        self,
        artifacts: Path,
        stem: str,
        files: Sequence[str],
        attributes: Mapping[str, str],
        overwrite: bool = False,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.artifacts, self.stem, self.files = artifacts, stem, list(files)
        self.attributes, self.shard_bytes = dict(attributes), shard_bytes
        self._buffer: h5py.File | None = None
        self._groups: dict[str, h5py.Group] = {}  # of the buffer: looking up a path is slower than storing an array
        self._buffered, self._flushed = 0, monotonic()
        for leftover in [*artifacts.glob(f".{stem}-*.h5.tmp"), *(temporary_of(artifacts / file) for file in files)]:
            leftover.unlink(missing_ok=True)
        self._overwrites = overwrite
        if not overwrite:
            self._discard_damaged_shards()
            for path in [*self._finals(), *self._shards()]:
                with open_h5(path) as file:
                    _check_attributes(path, stored_attributes(file), self.attributes)
        self._next_shard = max((int(path.stem.rpartition("-")[2]) + 1 for path in self._shards()), default=0)

    def done(self) -> set[str]:
        """The keys that are complete, in the artifacts or in shards of an interrupted run."""
        keys: set[str] = set()
        if self._overwrites:
            return keys
        finals = self._finals()
        if len(finals) == len(self.files):
            in_finals = []
            for path in finals:
                with open_h5(path) as file:
                    in_finals.append(set(dataset_keys(file)))
            keys = set.intersection(*in_finals)
        for path in self._shards():
            with open_h5(path) as file, reading(path):
                keys.update(dataset_keys(file[self.files[0]]))
        return keys

    def values(self, attribute: str) -> dict[str, Any]:
        """An attribute of each complete entry by key, as passed to `add`; None for an entry without it."""
        if self._overwrites:
            return {}
        found: dict[str, Any] = {}
        for path in [self.artifacts / self.files[0], *self._shards()]:
            if path.exists():
                with open_h5(path) as file, reading(path):
                    group = file.get(self.files[0], file)
                    found |= {key: group[key].attrs.get(attribute) for key in dataset_keys(group)}
        return found

    def add(self, key: str, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any] | None = None) -> None:
        """Add one entry: an array for each of the files, all under the same key and with the same attributes.

        Raises ValueError unless there is one array per file, and ArtifactError if a shard cannot be written.
        """
        if set(arrays) != set(self.files):
            raise ValueError(f"expected arrays for {self.files}, got {list(arrays)}")
        if self._buffer is None:
            name = str(self._shard_path(self._next_shard))
            self._buffer = h5py.File(name, "w", driver="core", backing_store=False)
            self._buffer.attrs.update(self.attributes)
        for file, array in arrays.items():
            folder, _, name = f"{file}/{key}".rpartition("/")
            if folder not in self._groups:
                self._groups[folder] = self._buffer.require_group(folder)
            dataset = self._groups[folder].create_dataset(name, data=array)
            if attributes:
                dataset.attrs.update(attributes)
            self._buffered += array.nbytes + 1024  # empty arrays take space as well
        if self._buffered >= self.shard_bytes or monotonic() - self._flushed >= SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write everything added so far to a shard, so that it survives a crash."""
        self._flushed = monotonic()
        if self._buffer is None:
            return
        self._buffer.flush()
        content = self._buffer.id.get_file_image()
        self._groups.clear()
        self._buffer.close()
        self._buffer, self._buffered = None, 0
        self.remove_old()
        path = self._shard_path(self._next_shard)
        self._next_shard += 1
        with self._new_file(path) as temporary:
            temporary.write_bytes(content)

    def finish(self) -> None:
        """Merge the shards into the artifacts and delete them."""
        self.flush()
        self.remove_old()
        shards = self._shards()
        if not shards:
            return
        # HDF5 does not survive a full disk: further writes after the first error can crash the process
        need = sum(path.stat().st_size for path in [*self._finals(), *shards])
        if free_bytes(self.artifacts) < need:
            raise self._write_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        # a merge repeated after a crash gives the same files: shards are deleted only after all artifacts are replaced
        with progress_bar("merge", "shard", total=len(shards) * len(self.files)) as bar:
            for name in self.files:
                with self._new_file(self.artifacts / name) as temporary:
                    self._merge_into(temporary, name, shards, bar.update)
        for shard in shards:
            shard.unlink()

    def remove_old(self) -> None:
        """Delete the old files if they are to be overwritten; called just before the first new result is written."""
        if self._overwrites:
            remove_artifacts(self.artifacts, self.stem, self.files)
            self._overwrites = False

    def _merge_into(self, temporary: Path, name: str, shards: list[Path], update: Any) -> None:
        final = self.artifacts / name
        if final.exists():
            shutil.copyfile(final, temporary)
        with h5py.File(temporary, "a", locking=False) as target:
            target.attrs.update(self.attributes)
            for shard in shards:
                with open_h5(shard) as source, reading(shard):
                    _copy(source[name], target)
                update(1)

    @contextlib.contextmanager
    def _new_file(self, path: Path) -> Iterator[Path]:
        try:
            with new_file(path) as temporary:
                yield temporary
        except (ArtifactError, RuntimeError) as error:  # HDF5 also raises RuntimeError
            raise self._write_error(error.__cause__ or error) from error

    def _write_error(self, error: BaseException) -> ArtifactError:
        return ArtifactError(
            f"cannot write in {self.artifacts}: {reason(error)}; complete results are kept: "
            "make room and run the same command again"
        )

    def _shard_path(self, number: int) -> Path:
        return self.artifacts / f".{self.stem}-{number:06d}.h5"

    def _shards(self) -> list[Path]:
        return _shards(self.artifacts, self.stem)

    def _finals(self) -> list[Path]:
        return [self.artifacts / name for name in self.files if (self.artifacts / name).exists()]

    def _discard_damaged_shards(self) -> None:
        for path in self._shards():
            try:
                with open_h5(path) as file:
                    dataset_keys(file)
            except ArtifactError:
                log.warning("%s is damaged; its results are computed again", path)
                path.unlink()


def _copy(source: h5py.Group, target: h5py.File) -> None:
    """Copy all datasets to the same paths in another file, replacing those there."""
    # by group handles, since each path would be looked up again
    pairs: dict[str, tuple[Any, Any]] = {}
    for key in dataset_keys(source):
        folder, _, name = key.rpartition("/")
        if folder not in pairs:
            pairs[folder] = ((source[folder] if folder else source).id, target.require_group(folder or "/").id)
        from_group, to_group = pairs[folder]
        if to_group.links.exists(name.encode()):
            to_group.unlink(name.encode())
        h5py.h5o.copy(from_group, name.encode(), to_group, name.encode())


def _shards(artifacts: Path, stem: str) -> list[Path]:
    return sorted(artifacts.glob(f".{stem}-*.h5"))


def check_same(path: Path, before: Mapping[str, str], now: Mapping[str, str], remedy: str = "") -> None:
    """Raise ArtifactError, naming what differs, unless `path` was made with the current options.

    remedy: alternatives to using the same options; default: another folder, or overwriting
    """
    changes = [
        f"{key} {before.get(key, 'unset')} there, {now.get(key, 'unset')} now"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if changes:
        raise ArtifactError(
            f"{path} was written with other options ({'; '.join(changes)}); use the same options, "
            f"{remedy or 'another folder, or ' + option('overwrite', True)}"
        )


def _check_attributes(path: Path, found: Mapping[str, Any], expected: Mapping[str, str]) -> None:
    if "format" not in found:
        raise ArtifactError(
            f"{path} was not written by this command; use another folder, or {option('overwrite', True)}"
        )
    check_same(path, _flat(found), _flat(expected))


def _flat(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Attributes as strings, with the JSON of `options` expanded."""
    flat = {key: str(value) for key, value in attributes.items() if key != "options"}
    with contextlib.suppress(ValueError, AttributeError, RecursionError):  # not written by DISK, so the options differ
        flat.update({key: str(value) for key, value in json.loads(str(attributes.get("options", "{}"))).items()})
    return flat
