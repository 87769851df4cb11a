"""The summary of a reconstruction: summary.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from disk.errors import ColmapError
from disk.options import AnyPath

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Reconstruction:
    """What came out; also the content of summary.json.

    images: number of images with features; registered, points, track_length and reprojection_error (pixels) are of
    the largest model; models: the same of every model, with its images, cameras and the points that each image
    sees; unconnected: images that are not in the largest model; reasons: why; seconds: of each stage in the run that
    made the model; connected, watermarks, turning: pairs with inliers, pairs that agree on a watermark alone, and pairs
    between which the camera turned but hardly moved; remarks: what is doubtful about the model; photos: their folder;
    failed: why photos have no features; stale: photos that were gone or changed since the run before;
    unused: what was given but had no effect; rotated: degrees by which photos were turned for detection;
    georegistration: where on earth the largest model is and by how many metres its cameras are off their GPS positions
    (`disk.colmap.georegistration.Georegistration`), None where it is not geo-registered.

    Where photos joined a model that was there: new: images that were not there when it was made; added: those of them,
    and of the others, that joined; removed: images taken out, and why; moved: how far a camera that stayed moved at
    most, as a share of the diagonal of the box around them. moved is None where all was mapped anew.
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


def read_summary(out: AnyPath) -> Reconstruction:
    """What mapping came to, from out/summary.json; ColmapError when it did not finish."""
    path = Path(out) / SUMMARY
    try:
        return Reconstruction(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ColmapError(f"no {path}; run `disk reconstruct` first") from None
    except (ValueError, TypeError):
        raise ColmapError(f"{path} was not written by `disk reconstruct`") from None


def is_complete(out: Path) -> bool:
    """Whether the summary, all the models it tells of and points.ply are there."""
    try:
        summary = read_summary(out)
    except ColmapError:
        return False
    models = [out / "sparse" / str(number) / "points3D.bin" for number in range(len(summary.models))]
    return all(path.is_file() for path in (*models, out / "points.ply"))
