"""Where photos were taken: the GPS tags in their EXIF (CIPA DC-008, 4.6.6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disk.errors import ImageError
from disk.images.listing import ImageFile, named
from disk.images.reading import exif_directory
from disk.progress import counted

_GPS = 0x8825
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE, _ALTITUDE_REF, _ALTITUDE = range(1, 7)
_STATUS, _DOP, _POSITIONING_ERROR = 9, 11, 31
_UNDER_OPEN_SKY = 5.0  # metres, typical error of a phone's or camera's receiver; a dilution of precision multiplies it
_LEAST_ERROR = 0.01  # metres, error of the best receivers
_HIGHEST = 100_000.0  # metres, largest plausible distance of a camera from sea level


@dataclass(frozen=True)
class GpsPosition:
    """Where a photo was taken.

    latitude, longitude: degrees north and east (WGS84)
    altitude: metres above sea level; None if not recorded
    error: standard deviation of the horizontal position in metres, as the camera recorded it if it did
    """

    latitude: float
    longitude: float
    altitude: float | None = None
    error: float = _UNDER_OPEN_SKY


class _Fault(Exception):
    """The reason why GPS tags give no position."""


def read_positions(files: Sequence[ImageFile]) -> tuple[dict[str, GpsPosition], str | None]:
    """The positions of photos by relative path, and a line that says which tags are unusable and why.

    Skips files that cannot be read: detection reports them.
    """
    positions: dict[str, GpsPosition] = {}
    faults: dict[str, list[str]] = {}
    for file in files:
        try:
            position = read_position(file.path)
        except ImageError:
            continue
        except _Fault as fault:
            faults.setdefault(str(fault), []).append(file.relative)
            continue
        if position is not None:
            positions[file.relative] = position
    if not faults:
        return positions, None
    whose = "; ".join(f"{why} ({named(who, 3)})" for why, who in faults.items())
    return positions, f"the GPS tags of {counted(sum(map(len, faults.values())), 'photo')} are not used: {whose}"


def read_position(path: Path) -> GpsPosition | None:
    """Where a photo was taken; None if its EXIF has no coordinates.

    Raises ImageError if it is not an image, and _Fault if its tags are unusable.
    """
    return _position(exif_directory(path, _GPS))


def _position(tags: Mapping[int, Any]) -> GpsPosition | None:
    if _LATITUDE not in tags and _LONGITUDE not in tags:
        return None
    if _LATITUDE not in tags or _LONGITUDE not in tags:
        raise _Fault("only one of latitude and longitude")
    if _letter(tags.get(_STATUS)) == "V":
        raise _Fault("the receiver had no fix")
    latitude = _degrees(tags[_LATITUDE], _letter(tags.get(_LATITUDE_REF)), "NS", 90)
    longitude = _degrees(tags[_LONGITUDE], _letter(tags.get(_LONGITUDE_REF)), "EW", 180)
    if latitude == longitude == 0:
        raise _Fault("latitude and longitude are 0, which receivers write without a fix")
    return GpsPosition(latitude, longitude, _altitude(tags), _error(tags))


def _degrees(value: Any, hemisphere: str, letters: str, most: int) -> float:
    """Degrees from degrees, minutes and seconds; negative in the second of the two hemispheres."""
    if not hemisphere or hemisphere not in letters:
        raise _Fault(f"no {letters[0]} or {letters[1]} beside the degrees")
    parts = value if isinstance(value, tuple | list) else (value,)
    numbers = [_number(part) for part in parts]
    if not 1 <= len(numbers) <= 3 or not all(0 <= number < math.inf for number in numbers):
        raise _Fault("degrees, minutes or seconds are not numbers")
    degrees = sum(number / 60**place for place, number in enumerate(numbers))
    if degrees > most or any(number > 60 for number in numbers[1:]):
        raise _Fault(f"beyond {most} degrees" if degrees > most else "more than 60 minutes or seconds")
    return degrees if hemisphere == letters[0] else -degrees


def _altitude(tags: Mapping[int, Any]) -> float | None:
    altitude = _number(tags.get(_ALTITUDE))
    below = tags.get(_ALTITUDE_REF)
    if isinstance(below, bytes | tuple | list):
        below = below[0] if below else 0
    # 0: above sea level, 1: below it; 2 and 3: the same, relative to the ellipsoid (Exif 3.0)
    return (-altitude if below in (1, 3) else altitude) if abs(altitude) < _HIGHEST else None


def _error(tags: Mapping[int, Any]) -> float:
    stated = _number(tags.get(_POSITIONING_ERROR))
    if not 0 < stated < math.inf:
        stated = _number(tags.get(_DOP)) * _UNDER_OPEN_SKY
    return max(stated, _LEAST_ERROR) if 0 < stated < math.inf else _UNDER_OPEN_SKY


def _letter(value: Any) -> str:
    text = value.decode("ascii", "ignore") if isinstance(value, bytes) else str(value or "")
    return text.strip("\0 ")[:1].upper()


def _number(value: Any) -> float:
    """The value as a number, nan if it is none; the denominator of an EXIF ratio may be 0."""
    try:
        return float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return math.nan
