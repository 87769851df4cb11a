"""Geometric verification of all matched pairs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from disk.errors import ArtifactError, ColmapError, DiskError
from disk.options import AnyPath, Options, option
from disk.pairs.choose import Pair
from disk.pipeline.options import Seed, TwoViews
from disk.progress import counted, log, progress_bar
from disk.storage.artifacts import (
    INLIERS,
    MatchStore,
    artifacts_folder,
    default_database,
    read_features,
    read_matches,
)
from disk.storage.locks import folder_lock
from disk.storage.names import pair_key
from disk.storage.reading import open_h5, stored_attributes
from disk.storage.shards import SHARD_BYTES, ShardWriter, keep_what_is_done


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(Seed, TwoViews, Options):
    """How to verify matches."""

    database_path: Path | None = None
    """Database that `disk export` wrote; default: database.db beside ARTIFACTS."""
    overwrite: bool = False
    """Verify all pairs again."""


@dataclass(frozen=True)
class VerifySummary:
    """What a run did.

    pairs: number of matched pairs
    verified: number of pairs verified in this run
    connected: number of pairs with inliers
    matches, inliers: totals of all pairs
    watermarks: number of pairs that have only a watermark in common, and so no inliers
    turning: number of connected pairs with a (nearly) pure rotation of the camera
    stale: number of pairs verified again because their cameras or matches changed
    """

    pairs: int
    verified: int
    connected: int
    matches: int
    inliers: int
    watermarks: int
    turning: int
    stale: int


def verify(artifacts: AnyPath, options: VerifyOptions = VerifyOptions()) -> VerifySummary:
    """Verify all matched pairs into the database and inliers.h5, which has the layout of matches.h5.

    Skips finished pairs, even if images were added or removed since.

    Raises ArtifactError without matches or if inliers.h5 was made with other options, ColmapError without a database or
    if its matches are not those of the artifacts.
    """
    from disk.colmap.database import difference, image_ids, open_database
    from disk.colmap.verification import is_verified, kinds_of_pairs, verify_pairs

    check_verify(options)
    artifacts = artifacts_folder(artifacts)
    path = options.database_path or default_database(artifacts)
    with (
        read_features(artifacts) as features,
        read_matches(artifacts) as matches,
        open_database(path) as database,
        folder_lock(artifacts),
    ):
        pairs = matches.pairs()
        if not pairs:
            raise ArtifactError(f"{artifacts} has no matched pairs to verify; run `disk match` first")
        attributes = _attributes(matches, options)
        from_scratch = options.overwrite or _is_of_earlier_version(artifacts, attributes)
        other = difference(database, features, matches)
        if other:
            raise ColmapError(
                f"{path} is not an up-to-date export of {artifacts} ({other}); run `disk export` again, "
                f"with {option('overwrite', True)}"
            )
        writer = ShardWriter(artifacts, "inliers", (INLIERS,), attributes, from_scratch, SHARD_BYTES)
        if from_scratch:
            # inliers first, then geometries, so that a pair present in both always comes from one run
            writer.remove_old()
            database.clear_two_view_geometries()
        writer.finish()  # merge the shards of an interrupted run
        by_name = image_ids(database)
        ids = {pair: (by_name[pair[0]], by_name[pair[1]]) for pair in pairs}
        known = set(_inlier_counts(artifacts, pairs))
        # the geometries in a database always belong to its cameras, keypoints and matches, see `write_database`
        done = _chosen(artifacts, known, lambda pair, inliers: is_verified(database, ids[pair], inliers))
        todo = [pair for pair in pairs if pair not in done]
        stale = len(known - done)
        if stale:
            log.warning(
                "%s in %s out of date (cameras or matches changed): verifying again", counted(stale, "pair"), INLIERS
            )
        with progress_bar("verify", "pair", total=len(pairs), initial=len(pairs) - len(todo)) as bar:
            images = [ids[pair] for pair in todo]
            found = verify_pairs(database, images, options.max_error, options.min_inliers, options.seed)
            with keep_what_is_done(writer.flush), contextlib.closing(found):
                for pair, inliers in zip(todo, found, strict=True):
                    writer.add(pair_key(*pair), {INLIERS: inliers})
                    bar.update(1)
        writer.finish()
        counts = _inlier_counts(artifacts, pairs)
        total = sum(matches[pair].shape[1] for pair in pairs)
        kinds = kinds_of_pairs(database, ids.values())
    summary = VerifySummary(
        pairs=len(pairs),
        verified=len(todo),
        connected=sum(map(bool, counts.values())),
        matches=total,
        inliers=sum(counts.values()),
        watermarks=kinds.count("WATERMARK"),
        turning=kinds.count("PANORAMIC"),
        stale=stale,
    )
    _report(summary)
    return summary


def _report(summary: VerifySummary) -> None:
    done = f"{summary.verified} verified in this run" if summary.verified else "nothing left to verify"
    log.info(
        "%s: %s; %d with inliers, %d of %d matches",
        counted(summary.pairs, "pair"), done, summary.connected, summary.inliers, summary.matches,
    )  # fmt: skip
    if summary.watermarks:
        log.warning(
            "%s with only a watermark in common, such as a date stamp or a frame: no inliers, not mapped",
            counted(summary.watermarks, "pair"),
        )
    if summary.turning and 2 * summary.turning >= summary.connected:
        log.warning("%s", turning_message(summary.turning, summary.connected))


def turning_message(turning: int, connected: int) -> str:
    """The message for photos that were mostly taken from one place."""
    return (
        f"in {turning} of {connected} verified pairs the motion is a pure rotation: the camera turned but hardly "
        "moved, so depth cannot be estimated; take the photos from different places"
    )


def check_verify(options: VerifyOptions) -> None:
    """Raise DiskError for a value that cannot be used."""
    if not 0 < options.max_error < math.inf:
        raise DiskError(f"{option('max_error', options.max_error)}: must be more than 0, and finite")
    if not 1 <= options.min_inliers < 2**31:
        raise DiskError(f"{option('min_inliers', options.min_inliers)}: must be at least 1 and below 2^31")
    check_seed(options.seed)


def check_seed(seed: int) -> None:
    """Raise DiskError for a seed that the robust estimators do not accept."""
    if not 0 <= seed < 2**31:
        raise DiskError(f"{option('seed', seed)}: must be at least 0 and below 2^31")


def _attributes(matches: MatchStore, options: VerifyOptions) -> dict[str, str]:
    made = json.dumps(matches.attributes, sort_keys=True).encode()
    return {
        # 1 had no a-contrario test, 2 kept inliers of watermarks, 3 had one fingerprint for all cameras
        "format": "disk inliers 4",
        "matches": hashlib.sha1(made).hexdigest()[:12],
        "options": json.dumps({key: getattr(options, key) for key in ("max_error", "min_inliers", "seed")}),
    }


def _is_of_earlier_version(artifacts: Path, attributes: dict[str, str]) -> bool:
    """Whether existing inliers were written by an older version.

    Raises ArtifactError if they were made with other options.
    """
    shards = sorted(artifacts.glob(".inliers-*.h5"))
    found = [path for path in (artifacts / INLIERS, *shards) if path.is_file() and h5py.is_hdf5(path)]
    if not found:
        return False
    with open_h5(found[0]) as file:
        before = {key: str(value) for key, value in stored_attributes(file).items() if key in ("format", "cameras")}
    ShardWriter(artifacts, "inliers", (INLIERS,), attributes | before, False, SHARD_BYTES)
    return before != {"format": attributes["format"]}


def _chosen(artifacts: Path, known: Collection[Pair], condition: Callable[[Pair, np.ndarray], bool]) -> set[Pair]:
    """The known pairs whose inliers in inliers.h5 satisfy a condition."""
    if not known:
        return set()
    with read_matches(artifacts, INLIERS) as inliers:
        return {pair for pair in known if condition(pair, inliers[pair])}


def _inlier_counts(artifacts: Path, pairs: Iterable[Pair]) -> dict[Pair, int]:
    """The number of inliers of each of the pairs that is in inliers.h5."""
    if not (artifacts / INLIERS).exists():
        return {}
    with read_matches(artifacts, INLIERS) as inliers:
        return {pair: inliers[pair].shape[1] for pair in pairs if pair in inliers}
