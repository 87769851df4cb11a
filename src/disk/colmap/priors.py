"""GPS positions for COLMAP: on a local map in metres, and as pose priors in a database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from disk.colmap.database import open_database
from disk.images.gps import GpsPosition
from disk.shapes import Float

_VERTICAL = 2.0  # vertical over horizontal error of GPS
_UNKNOWN_ALTITUDE = 100.0  # metres, standard deviation of the value used for an unknown altitude


@dataclass(frozen=True, eq=False)
class LocalMap:
    """Positions by name, in metres east, north and up (ENU) of an origin.

    origin: (latitude, longitude, altitude)
    error: median standard deviation of the horizontal positions, in metres
    has_altitudes: whether any altitude is known; unknown ones are set to the median of the others
    """

    origin: tuple[float, float, float]
    positions: dict[str, Float[np.ndarray, " 3"]]
    error: float
    has_altitudes: bool

    @property
    def ecef_from_enu(self) -> Float[np.ndarray, "4 4"]:
        """The transform from the map to the earth's frame (ECEF, WGS84), in metres."""
        corner, *axes = _transform().enu_to_ecef(np.vstack([np.zeros(3), np.eye(3)]), *self.origin)
        matrix = np.eye(4)
        matrix[:3] = np.column_stack([*(axis - corner for axis in axes), corner])
        return matrix

    @property
    def guides(self) -> bool:
        """Whether mapping should use the positions: whether their spread, not only along a line, exceeds their error.

        Positions far from most of the others do not count.
        """
        positions = np.array(list(self.positions.values()))
        distances = np.linalg.norm(positions - np.median(positions, axis=0), axis=1)
        near = positions[distances <= 5 * np.median(distances)]
        if len(near) < 3:
            return False
        spread = np.linalg.svd(near - near.mean(0), compute_uv=False) / np.sqrt(len(near))
        return bool(spread[1] > self.error)


def local_map(positions: Mapping[str, GpsPosition], origin: tuple[float, float, float] | None = None) -> LocalMap:
    """Put positions, at least one, on a map.

    origin: (latitude, longitude, altitude); default: the median of the positions, which outliers hardly move
    """
    height, has_altitudes = _usual_altitude(positions)
    on_earth = np.array(
        [
            (place.latitude, place.longitude, height if place.altitude is None else place.altitude)
            for place in positions.values()
        ]
    )
    if origin is None:
        # in ECEF, since longitudes of 180 and -180 degrees are the same
        middle = np.median(_transform().ellipsoid_to_ecef(on_earth), axis=0, keepdims=True)
        latitude, longitude, _ = _transform().ecef_to_ellipsoid(middle)[0]
        origin = round(float(latitude), 7), round(float(longitude), 7), round(height, 2)
    enu = _transform().ellipsoid_to_enu(on_earth, *origin)
    error = float(np.median([place.error for place in positions.values()]))
    return LocalMap(origin, dict(zip(positions, enu, strict=True)), error, has_altitudes)


def write_priors(database: Path, positions: Mapping[str, GpsPosition]) -> None:
    """Write positions, by image name, as the pose priors of a database; does nothing if it already has exactly these.

    Every COLMAP from 3.8 on still opens it, and from 3.10 on finds the priors.

    Raises the errors of `open_database`.
    """
    height, _ = _usual_altitude(positions)
    with open_database(database) as opened:
        images = {image.name: image for image in opened.read_all_images()}
        wanted = {
            images[name].image_id: _prior(images[name], place, height)
            for name, place in positions.items()
            if name in images
        }
        there = {prior.corr_data_id.id: prior for prior in opened.read_all_pose_priors()}
        if {key: _key(prior) for key, prior in there.items()} != {key: _key(prior) for key, prior in wanted.items()}:
            opened.clear_pose_priors()
            for prior in wanted.values():
                opened.write_pose_prior(prior)


def _usual_altitude(positions: Mapping[str, GpsPosition]) -> tuple[float, bool]:
    """The median of the known altitudes in metres, for positions without one, and whether there are any; else 0."""
    known = [place.altitude for place in positions.values() if place.altitude is not None]
    return (float(np.median(known)), True) if known else (0.0, False)


def _prior(image: pycolmap.Image, place: GpsPosition, height: float) -> pycolmap.PosePrior:
    vertical = _UNKNOWN_ALTITUDE if place.altitude is None else _VERTICAL * place.error
    altitude = height if place.altitude is None else place.altitude
    return pycolmap.PosePrior(
        corr_data_id=image.data_id,
        position=[place.latitude, place.longitude, altitude],
        position_covariance=np.diag(np.square([place.error, place.error, vertical])),  # east, north, up
        coordinate_system=pycolmap.PosePriorCoordinateSystem.WGS84,
    )


def _key(prior: pycolmap.PosePrior) -> tuple[object, ...]:
    return (*prior.position, *np.ravel(prior.position_covariance), int(prior.coordinate_system))


def _transform() -> pycolmap.GPSTransform:
    return pycolmap.GPSTransform(pycolmap.GPSTransformEllipsoid.WGS84)
