"""Geometric verification of every matched pair, resumed where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from disk.errors import ArtifactError, ColmapError, DiskError
from disk.progress import log, progress_bar
from disk.storage.artifacts import INLIERS, MatchStore, read_features, read_matches
from disk.storage.locks import folder_lock
from disk.storage.names import pair_key
from disk.storage.shards import SHARD_BYTES, ShardWriter, keep_what_is_done


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """How matches are verified."""

    database_path: Path = Path("database.db")
    """The database that `disk export` wrote."""
    max_error: float = 4.0
    """How far a match may be off the geometry of its two views, in pixels."""
    min_inliers: int = 15
    """A pair with fewer inliers, or as few as chance brings, keeps none."""
    seed: int = 0
    """Of the robust estimation: the same seed gives the same inliers."""
    overwrite: bool = False
    """Verify all pairs anew."""


@dataclass(frozen=True)
class VerifySummary:
    """Matched pairs, those verified now, those with inliers; matches and inliers of all pairs."""

    pairs: int
    verified: int
    connected: int
    matches: int
    inliers: int


def verify(artifacts: Path, options: VerifyOptions = VerifyOptions()) -> VerifySummary:
    """Verify all matched pairs into the database and inliers.h5, which is laid out as matches.h5 is.

    Pairs already done are skipped. Raises ArtifactError without matches or when inliers.h5 was made with
    other options, ColmapError without a database or when it holds other matches than the artifacts.
    """
    from disk.colmap.database import difference, image_ids, open_database
    from disk.colmap.verification import verify_pairs

    check_verify(options)
    with (
        read_features(artifacts) as features,
        read_matches(artifacts) as matches,
        open_database(options.database_path) as database,
        folder_lock(artifacts),
    ):
        writer = ShardWriter(
            artifacts, "inliers", (INLIERS,), _attributes(matches, options), options.overwrite, SHARD_BYTES
        )
        pairs = matches.pairs()
        if not pairs:
            raise ArtifactError(f"{artifacts} holds no matched pairs; there is nothing to verify")
        other = difference(database, features, matches)
        if other:
            raise ColmapError(
                f"{options.database_path} is no export of {artifacts} as it is now ({other}); run `disk export` again"
            )
        writer.finish()  # what an interrupted run left
        by_name = image_ids(database)
        ids = {pair: (by_name[pair[0]], by_name[pair[1]]) for pair in pairs}
        done = _inlier_counts(artifacts, pairs)
        todo = [pair for pair in pairs if pair not in done or not database.exists_two_view_geometry(*ids[pair])]
        with progress_bar("verify", "pair", total=len(pairs), initial=len(pairs) - len(todo)) as bar:
            images = [ids[pair] for pair in todo]
            found = verify_pairs(database, images, options.max_error, options.min_inliers, options.seed)
            with keep_what_is_done(writer.flush):
                for pair, inliers in zip(todo, found, strict=True):
                    writer.add(pair_key(*pair), {INLIERS: inliers})
                    bar.update(1)
        writer.finish()
        counts = _inlier_counts(artifacts, pairs)
        total = sum(matches[pair].shape[1] for pair in pairs)
    summary = VerifySummary(len(pairs), len(todo), sum(map(bool, counts.values())), total, sum(counts.values()))
    log.info(
        "%d pairs: %d verified now; %d have inliers, %d of %d matches",
        summary.pairs, summary.verified, summary.connected, summary.inliers, summary.matches,
    )  # fmt: skip
    return summary


def check_verify(options: VerifyOptions) -> None:
    """Raise DiskError for a value that cannot be used."""
    if options.max_error <= 0:
        raise DiskError(f"--max-error {options.max_error}: must be more than 0")
    if options.min_inliers < 1:
        raise DiskError(f"--min-inliers {options.min_inliers}: must be at least 1")
    if options.seed < 0:
        raise DiskError(f"--seed {options.seed}: must be at least 0")


def _attributes(matches: MatchStore, options: VerifyOptions) -> dict[str, str]:
    made = json.dumps(matches.attributes, sort_keys=True).encode()
    return {
        "format": "disk inliers 2",  # 1 kept inliers that chance explains
        "matches": hashlib.sha1(made).hexdigest()[:12],
        "options": json.dumps({key: getattr(options, key) for key in ("max_error", "min_inliers", "seed")}),
    }


def _inlier_counts(artifacts: Path, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Number of inliers of those pairs that are in inliers.h5."""
    if not (artifacts / INLIERS).exists():
        return {}
    with read_matches(artifacts, INLIERS) as inliers:
        return {pair: inliers[pair].shape[1] for pair in pairs if pair in inliers}
