"""Where matches go: stored pairs, and pairs with too few matches."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from disk.features import Matches
from disk.pairs.choose import Pair
from disk.storage.artifacts import MATCHES, UNMATCHED
from disk.storage.names import pair_key
from disk.storage.new_file import new_h5
from disk.storage.shards import SHARD_BYTES, ShardWriter


class MatchWriters:
    """matches.h5, and the pairs with fewer matches than `threshold` in unmatched.h5: for each, how many there were.

    `decisive`, a JSON text, is what decides the matches: a run only goes on with the same.
    """

    def __init__(self, artifacts: Path, decisive: str, threshold: int, u16: bool, overwrite: bool) -> None:
        attributes = {"format": "disk matches 1", "options": decisive}
        self._path, self._attributes = artifacts / MATCHES, attributes
        self._matches, self._unmatched = (
            ShardWriter(artifacts, Path(file).stem, [file], attributes, overwrite, SHARD_BYTES)
            for file in (MATCHES, UNMATCHED)
        )
        self._threshold, self._dtype = threshold, np.uint16 if u16 else np.int64
        self._done = self._matches.done() | self._unmatched.done()
        self.stored = self.matches = 0

    def is_done(self, pair: Pair) -> bool:
        """Whether an earlier run matched this pair."""
        return pair_key(*pair) in self._done

    def add(self, pair: Pair, matches: Matches) -> None:
        """Store or count the matches of a pair."""
        # or an interruption would leave matches of now beside pairs without them of then
        self._unmatched.remove_old()
        indices = matches.indices.T.contiguous().numpy()
        if len(matches) < self._threshold:
            self._unmatched.add(pair_key(*pair), {UNMATCHED: np.array(len(matches))})
            return
        self._matches.add(pair_key(*pair), {MATCHES: indices.astype(self._dtype, copy=False)})
        self.stored += 1
        self.matches += len(matches)

    def flush(self) -> None:
        """Make everything added so far survive a crash."""
        self._matches.flush()
        self._unmatched.flush()

    def finish(self) -> None:
        """Complete the artifacts."""
        self._matches.finish()
        self._unmatched.finish()
        if not self._path.exists():  # not one pair was stored; those who read matches shall find that
            with new_h5(self._path) as file:
                file.attrs.update(self._attributes)
