"""Writing matches: stored pairs, and pairs with too few matches."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from disk.features import Matches
from disk.options import option
from disk.pairs.choose import Pair
from disk.progress import counted, log
from disk.storage.artifacts import INLIERS, MATCHES, UNMATCHED
from disk.storage.names import decode_name, pair_key
from disk.storage.new_file import new_file
from disk.storage.new_h5 import new_h5
from disk.storage.reading import dataset_keys, open_h5, read_numbers, stored_dataset
from disk.storage.shards import SHARD_BYTES, ShardWriter, remove_artifacts


class MatchWriters:
    """Writes matches.h5, and to unmatched.h5 the match counts of pairs with fewer than `threshold` matches.

    A matches.h5 by the original DISK does not record its options; it is resumed, as by the original.
    decisive: JSON of the options that determine the matches; a run resumes only with the same
    counts: number of features of each image
    """

    def __init__(
        self, artifacts: Path, decisive: str, threshold: int, u16: bool, overwrite: bool, counts: Mapping[str, int]
    ) -> None:
        attributes = {"format": "disk matches 1", "options": decisive}
        if not overwrite:
            _adopt(artifacts / MATCHES, attributes, counts)
        self._path, self._attributes = artifacts / MATCHES, attributes
        self._matches, self._unmatched = (
            ShardWriter(artifacts, Path(file).stem, [file], attributes, overwrite, SHARD_BYTES)
            for file in (MATCHES, UNMATCHED)
        )
        self._overwrites = overwrite
        self._threshold, self._dtype = threshold, np.uint16 if u16 else np.int64
        self._done = self._matches.done() | self._unmatched.done()
        self.stored = self.matches = 0

    def is_done(self, pair: Pair) -> bool:
        """Whether an earlier run has matched this pair."""
        return pair_key(*pair) in self._done

    def add(self, pair: Pair, matches: Matches) -> None:
        """Store the matches of a pair, or only their number if they are too few."""
        # delete old results first: an interruption must not leave new matches beside old counts or inliers
        self._unmatched.remove_old()
        if self._overwrites:
            remove_artifacts(self._path.parent, Path(INLIERS).stem, [INLIERS])
            self._overwrites = False
        indices = matches.indices.T.contiguous().numpy()
        if len(matches) < self._threshold:
            self._unmatched.add(pair_key(*pair), {UNMATCHED: np.array(len(matches))})
            return
        self._matches.add(pair_key(*pair), {MATCHES: indices.astype(self._dtype, copy=False)})
        self.stored += 1
        self.matches += len(matches)

    def flush(self) -> None:
        """Write everything added so far to disk, so that it survives a crash."""
        self._matches.flush()
        self._unmatched.flush()

    def finish(self) -> None:
        """Complete the artifacts."""
        self._matches.finish()
        self._unmatched.finish()
        if not self._path.exists():  # no pair was stored; readers still expect the file
            with new_h5(self._path) as file:
                file.attrs.update(self._attributes)


def _adopt(path: Path, attributes: Mapping[str, str], counts: Mapping[str, int]) -> None:
    """Convert a matches.h5 by the original DISK to ours, if its matches belong to these features."""
    if not path.exists():
        return
    with open_h5(path) as file:
        if "format" in file.attrs:
            return
        keys = dataset_keys(file)
        if not keys or not all(_is_of(stored_dataset(file, key), key.split("/"), counts) for key in keys):
            return  # ShardWriter will refuse it as another program's
    with new_file(path) as temporary:
        shutil.copyfile(path, temporary)
        with h5py.File(temporary, "a", locking=False) as file:
            file.attrs.update(attributes)
    log.warning(
        "%s was written by the original DISK, which does not record its options: its matches of %s are kept; %s "
        "matches again", path, counted(len(keys), "pair"), option("overwrite", True),
    )  # fmt: skip


def _is_of(matches: h5py.Dataset | None, key: list[str], counts: Mapping[str, int]) -> bool:
    """Whether a dataset holds matches between the features of the two images of its key."""
    if matches is None or len(key) != 2 or matches.ndim != 2 or matches.shape[0] != 2 or matches.dtype.kind not in "iu":
        return False
    rows = zip(read_numbers(matches), (counts.get(decode_name(name), 0) for name in key), strict=True)
    return all(row.size == 0 or 0 <= row.min() <= row.max() < count for row, count in rows)
