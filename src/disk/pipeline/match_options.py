"""The options of matching and their checks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from disk.errors import CheckpointError, DiskError, PairsError
from disk.options import Options, check_at_least, option
from disk.pairs.spatial import check_distance
from disk.pipeline.options import MatcherChoice, PairChoice, Place

ALL_PAIRS_UP_TO = 200  # images; if not told otherwise, above this number pairs are chosen by retrieval
# option -> the pairing strategies that use it
_USED_BY = {
    "overlap": ("sequential", "rig"),
    "loops": ("sequential", "rig"),
    "top_k": ("retrieval", "spatial"),
    "max_distance": ("spatial",),
}


@dataclass(frozen=True, kw_only=True)
class MatchOptions(Place, PairChoice, MatcherChoice, Options):
    """How to match features."""

    f16: bool = False
    """Match descriptors in half precision."""
    u16: bool = False
    """Store matches as uint16, a quarter of the size; for images with at most 65535 features."""
    save_threshold: float | int = 0
    """Minimum number of matches of a stored pair; the others are only listed in unmatched.h5."""
    max_full_matrix: int = 10000**2
    """Maximum number of similarities in memory at once; does not change the result."""
    pairs: Literal["exhaustive", "sequential", "rig", "list", "retrieval", "spatial"] = "exhaustive"
    """Pairs to match. exhaustive: all; sequential: neighbours by name; rig: neighbours of each camera and across
    cameras (a folder is a camera, images of one instant share a name); list: --pairs-file; retrieval: similar images;
    spatial: near by GPS."""
    images: Path | None = None
    """spatial: folder of the photos, to read GPS positions from EXIF."""
    cache_mb: int = 2048
    """Memory for descriptors in megabytes; each image is read only once if all fit."""
    overwrite: bool = False
    """Delete the matches in the folder and start over."""


def check_match(options: MatchOptions) -> None:
    """Raise DiskError for a value that cannot be used."""
    check_at_least(options, max_full_matrix=1, overlap=1, loops=0, top_k=1, cache_mb=1)
    if not 0 <= options.save_threshold < math.inf:
        raise DiskError(f"{option('save_threshold', options.save_threshold)}: must be at least 0")
    if options.rt is not None and not 0 < options.rt <= 1:
        raise DiskError(f"{option('rt', options.rt)}: must be above 0 and at most 1, or None for no ratio test")
    lightglue = option("matcher", "lightglue")
    if options.matcher == "lightglue" and options.rt not in (None, MatchOptions.rt):
        raise DiskError(f"{option('rt')} is for nearest neighbours; leave it out with {lightglue}")
    if options.matcher != "lightglue" and options.matcher_weights is not None:
        raise DiskError(f"{option('matcher_weights')} is for {lightglue}; leave it out")
    if options.matcher_weights is not None and not options.matcher_weights.is_file():
        raise CheckpointError(f"{option('matcher_weights', options.matcher_weights)}: no such file")
    if (options.pairs == "list") != (options.pairs_file is not None):
        raise PairsError(f"{option('pairs', 'list')} and {option('pairs_file')} go together")
    if (options.pairs == "spatial") != (options.images is not None):
        raise PairsError(f"{option('pairs', 'spatial')} and {option('images')} go together")
    check_distance(options.max_distance)
    if options.pairs_file is not None and not options.pairs_file.is_file():
        raise PairsError(f"cannot read the pairs in {options.pairs_file}: no such file")


def only_for_other_pairs(pairs: str) -> dict[str, str]:
    """The options that only other pairing strategies use, and these strategies as text; for `unused_flags`."""
    return {
        name: " or ".join([option("pairs", ways[0]), *ways[1:]]) for name, ways in _USED_BY.items() if pairs not in ways
    }


def ratio_of(options: MatcherChoice) -> float | None:
    """The threshold of the ratio test; None with LightGlue, which has no ratio test."""
    return None if options.matcher == "lightglue" else options.rt


def threshold_of(options: MatchOptions) -> int:
    """The minimum number of matches as an integer: 2.5 becomes 3."""
    return math.ceil(options.save_threshold)
