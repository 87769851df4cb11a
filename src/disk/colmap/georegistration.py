"""Georegistration: models in metres east, north and up of a point on earth, by the GPS positions of their photos."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from disk.colmap.priors import LocalMap, local_map
from disk.geometry.positions import NotFixedError, PositionFit, fit_positions
from disk.images.gps import GpsPosition
from disk.options import option
from disk.storage.new_file import write_json

FILE = "georegistration.json"
_ORIGIN = ("latitude", "longitude", "altitude")


@dataclass(frozen=True)
class Georegistration:
    """The position of a model on earth.

    latitude, longitude: of its origin, in degrees (WGS84)
    altitude: of its origin, in metres, as in EXIF, usually above sea level
    photos: number of photos in the model that have a position
    used: number of those that agree with the model
    median, max: distances between the cameras of the used photos and their positions, in metres
    outliers: the same distance for each of the other photos, by name
    """

    latitude: float
    longitude: float
    altitude: float
    photos: int
    used: int
    median: float
    max: float
    outliers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Placed:
    """The result of georegistration: the position, and the content of georegistration.json."""

    place: Georegistration
    content: dict[str, Any]

    def write(self, model: Path) -> None:
        """Write georegistration.json into the folder of the model."""
        write_json(model / FILE, self.content)


def georegister(model: pycolmap.Reconstruction, on_map: LocalMap) -> Placed:
    """Move a model to the positions of its photos.

    Raises NotFixedError, and changes nothing, if the positions do not determine where it is.
    """
    names, centres, positions = _on_map(model, on_map)
    fit = fit_positions(centres, positions)
    model.transform(pycolmap.Sim3d(fit.scale, pycolmap.Rotation3d(fit.R), fit.t))
    return _placed(names, fit, on_map)


def kept_place(
    model: pycolmap.Reconstruction, folder: Path, positions: Mapping[str, GpsPosition]
) -> Placed | str | None:
    """The georegistration of a model in the frame of the one in a folder, or why it has none; None without positions.

    Neither the model nor its origin moves, whichever photos have joined. If the positions that are left do not
    determine where it is, the residuals are those of before.
    """
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        latitude, longitude, altitude = (float(content["origin"][key]) for key in _ORIGIN)
        scale, R, t = (np.array(content["model_from_mapping"][key]) for key in ("scale", "rotation", "translation"))
        before = _read(content)
    except (OSError, ValueError, LookupError, TypeError):
        return f"the model was made without; {option('remap', True)} maps from scratch" if positions else None
    if not positions:
        return before
    on_map = local_map(positions, (latitude, longitude, altitude))
    names, centres, there = _on_map(model, on_map)
    try:
        used = fit_positions(centres, there).used
    except NotFixedError:
        return before
    residuals = np.linalg.norm(centres - there, axis=1)
    return _placed(names, PositionFit(float(scale), R, t, residuals, used), on_map)


def _read(content: dict[str, Any]) -> Placed:
    """What `_placed` wrote into georegistration.json."""
    off, outliers = content["residuals"]["photos"], content["outliers"]
    latitude, longitude, altitude = (float(content["origin"][key]) for key in _ORIGIN)
    place = Georegistration(
        latitude,
        longitude,
        altitude,
        photos=len(off),
        used=len(off) - len(outliers),
        median=float(content["residuals"]["median"]),
        max=float(content["residuals"]["max"]),
        outliers={name: float(off[name]) for name in outliers},
    )
    return Placed(place, content)


def _on_map(model: pycolmap.Reconstruction, on_map: LocalMap) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, camera centres and positions of the images that have a position."""
    images = sorted((model.image(image_id) for image_id in model.reg_image_ids()), key=lambda image: image.name)
    images = [image for image in images if image.name in on_map.positions]
    centres = np.array([image.projection_center() for image in images]).reshape(-1, 3)
    positions = np.array([on_map.positions[image.name] for image in images]).reshape(-1, 3)
    return [image.name for image in images], centres, positions


def _placed(names: list[str], fit: PositionFit, on_map: LocalMap) -> Placed:
    off = {name: round(float(metres), 4) for name, metres in zip(names, fit.residuals, strict=True)}
    used = fit.residuals[fit.used]
    place = Georegistration(
        *on_map.origin,
        photos=len(names),
        used=len(used),
        median=round(float(np.median(used)), 4),
        max=round(float(used.max()), 4),
        outliers={name: off[name] for name, good in zip(names, fit.used, strict=True) if not good},
    )
    content = {
        "format": "disk georegistration 1",
        "axes": "x east, y north, z up, in metres",
        "origin": dict(zip(_ORIGIN, on_map.origin, strict=True)),
        "ecef_from_model": on_map.ecef_from_enu.tolist(),
        "model_from_mapping": {"scale": fit.scale, "rotation": fit.R.tolist(), "translation": fit.t.tolist()},
        "residuals": {"median": place.median, "max": place.max, "photos": off},
        "outliers": sorted(place.outliers),
    }
    return Placed(place, content)
