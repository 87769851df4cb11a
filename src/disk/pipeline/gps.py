"""Uses of GPS: pairs of photos taken near each other, and remarks on a model's position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from disk.errors import PairsError
from disk.images.gps import GpsPosition, read_positions
from disk.images.listing import ImageFile, named
from disk.options import option
from disk.pairs.choose import Pair
from disk.pairs.retrieval import FeatureSource, retrieval
from disk.pairs.spatial import spatial
from disk.progress import counted, log

if TYPE_CHECKING:
    from disk.colmap.models import Model
    from disk.colmap.priors import LocalMap


def positions_for_pairs(files: Sequence[ImageFile]) -> dict[str, GpsPosition]:
    """The GPS positions of photos by relative path. Raises PairsError for fewer than two."""
    positions, faults = read_positions(files)
    if faults:
        log.warning(faults)
    if len(positions) < 2:
        raise PairsError(
            f"{option('pairs', 'spatial')}: a usable GPS position in the EXIF of only {len(positions)} of "
            f"{counted(len(files), 'photo')}; use {option('pairs', 'retrieval')}"
        )
    return positions


def spatial_pairs(
    features: FeatureSource, files: Sequence[ImageFile], top_k: int, max_distance: float | None
) -> list[Pair]:
    """Pairs of each image with the nearest ones by GPS, or with similar ones if it has no position.

    files: the photos
    top_k: number of partners of each image
    max_distance: maximum distance of a pair, in metres; None: no limit

    Raises PairsError if fewer than two photos have a position.
    """
    from disk.colmap.priors import local_map

    detected = set(features.names)
    positions = positions_for_pairs(files)
    names = {file.relative: file.name for file in files}
    places = {names[path]: place for path, place in local_map(positions).positions.items()}
    pairs = set(spatial(places, top_k, max_distance))
    alone = sorted(set(places) - {name for pair in pairs for name in pair})
    if alone:
        log.warning(
            "%s without a neighbour within %g m: %s", counted(len(alone), "photo"), max_distance, named(alone, 3)
        )
    without = sorted(detected - set(places))
    if without:
        log.info("matching %s without GPS with similar ones: %s", counted(len(without), "photo"), named(without, 3))
        pairs.update(retrieval(features, top_k, only=without))
    return sorted(pairs)


def remarks_on_place(model: Model, gps: LocalMap | None) -> list[str]:
    """Remarks on the geo-registration of a model."""
    if model.gps_unused is not None:
        return [f"not geo-registered: {model.gps_unused}"]
    if model.georegistration is not None and gps is not None and not gps.has_altitudes:
        return ["GPS has no altitudes: the model is placed as if all photos were taken at the same altitude"]
    return []
