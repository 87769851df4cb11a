"""The summary of a reconstruction: summary.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disk.errors import ColmapError
from disk.options import AnyPath

if TYPE_CHECKING:
    from disk.colmap.models import Model
    from disk.pipeline.connections import Connections

SUMMARY = "summary.json"
AGREEMENT = "agreement.json"  # only beside triangulated models


@dataclass(frozen=True)
class Reconstruction:
    """The result of a reconstruction; also the content of summary.json.

    images: number of images with features
    registered, points, track_length, reprojection_error (pixels): of the largest model
    models: the same for every model, with its images, cameras and the number of points each image observes
    unconnected, reasons: images that are not in the largest model, and why
    seconds: duration of each stage in the run that made the model
    connected: number of pairs with inliers
    watermarks: number of pairs that have only a watermark in common
    turning: number of pairs with a (nearly) pure rotation of the camera
    remarks: doubts about the model
    photos: folder of the photos
    failed: photos without features, and why
    stale: photos that were removed or changed since the previous run
    unused: options that were given but had no effect
    rotated: rotation of photos for detection, in degrees
    georegistration: position of the largest model on earth and the residuals of its cameras to their GPS positions in
        metres (`disk.colmap.georegistration.Georegistration`); None if it is not geo-registered

    If photos were added to an existing model:
    new: images that were not available when the model was made
    added: images, new or not, that were registered now
    removed: images removed from the model, and why
    moved: largest movement of a remaining camera, relative to the diagonal of the cameras' bounding box; None if
        everything was mapped from scratch
    """

    images: int
    registered: int
    points: int
    track_length: float
    reprojection_error: float
    unconnected: list[str]
    models: list[dict[str, Any]]
    seconds: dict[str, float]
    reasons: dict[str, str] = field(default_factory=dict)
    connected: int = 0
    watermarks: int = 0
    turning: int = 0
    remarks: list[str] = field(default_factory=list)
    photos: str = ""
    failed: dict[str, str] = field(default_factory=dict)
    stale: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    rotated: dict[str, int] = field(default_factory=dict)
    georegistration: dict[str, Any] | None = None
    new: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    removed: dict[str, str] = field(default_factory=dict)
    moved: float | None = None


def summarize(
    models: Sequence[Model],
    images: int,
    photos: Path,
    connections: Connections,
    reasons: Mapping[str, str],
    seconds: Mapping[str, float],
) -> Reconstruction:
    """The summary of models, the largest first.

    images: number of images with features
    photos: folder of the photos
    reasons: why images are not connected to the largest model, by name
    seconds: duration of each stage
    """
    largest = models[0]
    return Reconstruction(
        images=images,
        registered=len(largest.images),
        points=largest.points,
        track_length=largest.track_length,
        reprojection_error=largest.reprojection_error,
        unconnected=sorted(reasons),
        models=[asdict(model) for model in models],
        seconds={stage: round(value, 3) for stage, value in seconds.items()},
        reasons=dict(reasons),
        connected=len(connections.inliers),
        watermarks=len(connections.watermarks),
        turning=len(connections.turning),
        photos=str(photos.absolute()),
    )


def read_summary(out: AnyPath) -> Reconstruction:
    """Read out/summary.json. Raises ColmapError if it does not exist or is not ours."""
    path = Path(out) / SUMMARY
    try:
        return Reconstruction(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ColmapError(f"no {path}; run `disk reconstruct` first") from None
    except (ValueError, TypeError):
        raise ColmapError(f"{path} was not written by `disk reconstruct`") from None


def is_complete(out: Path) -> bool:
    """Whether the summary, all models it lists and points.ply exist."""
    try:
        summary = read_summary(out)
    except ColmapError:
        return False
    models = [out / "sparse" / str(number) / "points3D.bin" for number in range(len(summary.models))]
    return all(path.is_file() for path in (*models, out / "points.ply"))
