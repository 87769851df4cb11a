"""Choosing the pairs of images to match."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from disk.errors import ArtifactError
from disk.features import Features
from disk.images.listing import ImageFile, list_images
from disk.pairs.choose import Pair, connected, exhaustive, from_file, order, sequential, tidy
from disk.pairs.retrieval import loop_closures, retrieval
from disk.pairs.rigs import along_and_across, instants
from disk.pipeline.feature_cache import FeatureCache
from disk.pipeline.gps import spatial_pairs
from disk.pipeline.match_options import MatchOptions
from disk.progress import counted, log
from disk.storage.artifacts import FeatureStore
from disk.storage.forget import forget_pairs

_APART = 2  # times the overlap: images closer than this in the sequence do not close a loop


def choose_pairs(options: MatchOptions, cache: FeatureCache[Features], store: FeatureStore) -> list[Pair]:
    """The pairs of names to match. Raises PairsError if a list or the positions cannot be used."""
    if options.pairs_file is not None:
        pairs = from_file(options.pairs_file, cache.names)
        groups = connected(pairs)
        if len(groups) > 1:
            log.warning(
                "the pairs of %s split the images into %d unconnected groups, such as those of %s and of %s: each "
                "becomes a separate model",
                options.pairs_file, len(groups), groups[0][0], groups[1][0],
            )  # fmt: skip
        return pairs
    if options.pairs in ("sequential", "rig"):
        of_rig = options.pairs == "rig"
        near = along_and_across(cache.names, options.overlap) if of_rig else sequential(cache.names, options.overlap)
        if not options.loops:
            return near
        places = instants(cache.names) if of_rig else order(cache.names)
        return tidy([*near, *loop_closures(cache, places, _APART * options.overlap, options.loops)])
    if options.pairs == "retrieval":
        return retrieval(cache, options.top_k)
    if options.images is not None:
        files = _photos_of(store, options.images)
        return spatial_pairs(cache, files, options.top_k, options.max_distance)
    return exhaustive(cache.names)


def _photos_of(store: FeatureStore, folder: Path) -> list[ImageFile]:
    """The photos of a folder, of the features' file type if they share one; ImageError as `list_images`."""
    try:
        suffixes = {PurePosixPath(store.image_path(name)).suffix.lower() for name in store.names}
    except ArtifactError:  # of another program
        suffixes = set()
    return list_images(folder, suffixes.pop() if len(suffixes) == 1 else None)


def forget_pairs_but(artifacts: Path, chosen: set[Pair]) -> None:
    """Delete the matches and inliers of all pairs but the chosen ones."""
    count = forget_pairs(artifacts, lambda pair: pair not in chosen)
    if count:
        log.info("deleted the matches of %s that earlier runs chose, but this one does not", counted(count, "pair"))
