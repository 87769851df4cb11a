"""Models in metres east, north and up of a point on earth, by the GPS positions of their photos."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from disk.colmap.priors import LocalMap
from disk.geometry.positions import PositionFit, fit_positions
from disk.storage.new_file import write_json

FILE = "georegistration.json"


@dataclass(frozen=True)
class Georegistration:
    """A model's place on earth.

    latitude, longitude (degrees, WGS84) and altitude (metres, as EXIF has it, most often above the sea) of its origin;
    photos: those of the model with a position; used: those that agree; median and max: by how many metres the cameras
    of the used ones are off their positions; outliers: the same of the others, by name.
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
    """What came of a model's positions: its place, and the content of its georegistration.json."""

    place: Georegistration
    content: dict[str, Any]

    def write(self, model: Path) -> None:
        """Write the json into the folder of the model."""
        write_json(model / FILE, self.content)


def georegister(model: pycolmap.Reconstruction, on_map: LocalMap) -> Placed:
    """Move a model to where its photos were taken. Raises NotFixedError, and changes nothing, when they do not tell."""
    images = sorted((model.image(image_id) for image_id in model.reg_image_ids()), key=lambda image: image.name)
    images = [image for image in images if image.name in on_map.positions]
    centres = np.array([image.projection_center() for image in images]).reshape(-1, 3)
    positions = np.array([on_map.positions[image.name] for image in images]).reshape(-1, 3)
    fit = fit_positions(centres, positions)
    model.transform(pycolmap.Sim3d(fit.scale, pycolmap.Rotation3d(fit.R), fit.t))
    return _placed([image.name for image in images], fit, on_map)


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
        "origin": dict(zip(("latitude", "longitude", "altitude"), on_map.origin, strict=True)),
        "ecef_from_model": on_map.ecef_from_enu.tolist(),
        "model_from_mapping": {"scale": fit.scale, "rotation": fit.R.tolist(), "translation": fit.t.tolist()},
        "residuals": {"median": place.median, "max": place.max, "photos": off},
        "outliers": sorted(place.outliers),
    }
    return Placed(place, content)
