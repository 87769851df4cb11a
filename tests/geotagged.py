"""GPS tags for photos: local positions in metres, written as a receiver would write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

GPS = 0x8825
_A, _FLATTENING = 6378137.0, 1 / 298.257223563  # of the earth, WGS84
_E2 = _FLATTENING * (2 - _FLATTENING)


def geotag(photo: Path, tags: Mapping[int, Any]) -> None:
    """Write these GPS tags into the EXIF of a photo."""
    with Image.open(photo) as image:
        image.load()
        if photo.suffix == ".tif":
            image.save(photo, tiffinfo={GPS: dict(tags)})
            return
        exif = image.getexif()
        exif[GPS] = dict(tags)
        image.save(photo, exif=exif)


def gps_tags(latitude: float, longitude: float, altitude: float | None = None) -> dict[int, Any]:
    """EXIF tags of a position in degrees and metres: degrees, minutes and seconds, to a third of a millimetre."""
    tags: dict[int, Any] = {
        1: "N" if latitude >= 0 else "S", 2: _sexagesimal(abs(latitude)),
        3: "E" if longitude >= 0 else "W", 4: _sexagesimal(abs(longitude)),
    }  # fmt: skip
    if altitude is not None:
        tags |= {5: b"\1" if altitude < 0 else b"\0", 6: IFDRational(round(abs(altitude) * 10_000), 10_000)}
    return tags


def _sexagesimal(degrees: float) -> tuple[IFDRational, ...]:
    units = round(degrees * 3600 * 100_000)
    minutes, rest = divmod(units, 60 * 100_000)
    return IFDRational(minutes // 60, 1), IFDRational(minutes % 60, 1), IFDRational(rest, 100_000)


def to_ecef(latitude: float, longitude: float, altitude: float) -> np.ndarray:
    """WGS84 degrees and metres -> earth-centred coordinates in metres (Hofmann-Wellenhof, GNSS, 8.1)."""
    phi, lam = np.radians([latitude, longitude])
    radius = _A / np.sqrt(1 - _E2 * np.sin(phi) ** 2)
    return np.array(
        [
            (radius + altitude) * np.cos(phi) * np.cos(lam),
            (radius + altitude) * np.cos(phi) * np.sin(lam),
            (radius * (1 - _E2) + altitude) * np.sin(phi),
        ]
    )


def axes_at(latitude: float, longitude: float) -> np.ndarray:
    """Unit vectors to the east, north and up in earth-centred coordinates, one per row."""
    phi, lam = np.radians([latitude, longitude])
    return np.array(
        [
            [-np.sin(lam), np.cos(lam), 0],
            [-np.sin(phi) * np.cos(lam), -np.sin(phi) * np.sin(lam), np.cos(phi)],
            [np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)],
        ]
    )


def from_ecef(point: np.ndarray) -> tuple[float, float, float]:
    """Earth-centred coordinates in metres -> degrees and metres, by fixed-point iteration."""
    across = np.hypot(point[0], point[1])
    phi = np.arctan2(point[2], across * (1 - _E2))
    for _ in range(20):
        radius = _A / np.sqrt(1 - _E2 * np.sin(phi) ** 2)
        altitude = across / np.cos(phi) - radius
        phi = np.arctan2(point[2], across * (1 - _E2 * radius / (radius + altitude)))
    return float(np.degrees(phi)), float(np.degrees(np.arctan2(point[1], point[0]))), float(altitude)


def geodetic(enu: np.ndarray, origin: tuple[float, float, float]) -> tuple[float, float, float]:
    """Metres east, north and up of an origin -> degrees and metres."""
    return from_ecef(to_ecef(*origin) + enu @ axes_at(*origin[:2]))


def local(latitude: float, longitude: float, altitude: float, origin: tuple[float, float, float]) -> np.ndarray:
    """Degrees and metres -> metres east, north and up of an origin."""
    return axes_at(*origin[:2]) @ (to_ecef(latitude, longitude, altitude) - to_ecef(*origin))
