"""Cameras that fire together: a folder of images per camera; images taken at the same instant have the same name.

For example, left/0001 and right/0001 were taken at the same time. A camera may lack the images of some instants.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from disk.errors import PairsError
from disk.pairs.choose import Pair, order, sequential, tidy


def cameras_of(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """The images of each camera by instant, {left: {0001: left/0001, ...}, right: ...}, with sorted cameras.

    Raises PairsError for fewer than two cameras, an image outside the cameras' folders, or a camera that shares no
    instant with any other.
    """
    cameras: dict[str, dict[str, str]] = {}
    for name in sorted(names):
        folder, _, instant = name.partition("/")
        if not instant or "/" in instant:
            raise PairsError(
                f"{name!r} is not in the folder of a camera: a rig needs one folder per camera, such as left/ and "
                "right/, with the images directly in it"
            )
        cameras.setdefault(folder, {})[instant] = name
    if len(cameras) < 2:
        raise PairsError(
            f"a rig needs several cameras, but all images are in one folder, {', '.join(cameras)}/; give the parent "
            "folder of the cameras' folders"
        )
    for camera, images in cameras.items():
        if not any(images.keys() & cameras[other].keys() for other in cameras if other != camera):
            raise PairsError(
                f"no image in {camera}/, such as {min(images)!r}, has the name of an image of another camera: images "
                "taken at the same instant must have the same name"
            )
    return cameras


def along_and_across(names: Iterable[str], overlap: int) -> list[Pair]:
    """Pair each image with the next `overlap` of its camera, and with those of the other cameras at the same instant.

    Raises PairsError as `cameras_of`, and DiskError for an overlap below 1.
    """
    cameras = cameras_of(names)
    pairs = [pair for images in cameras.values() for pair in sequential(images.values(), overlap)]
    for first, second in itertools.combinations(cameras.values(), 2):
        pairs += [(first[instant], second[instant]) for instant in first.keys() & second.keys()]
    return tidy(pairs)


def instants(names: Iterable[str]) -> dict[str, int]:
    """The position of each image in time, equal for all images of an instant. Raises PairsError as `cameras_of`."""
    cameras = cameras_of(names)
    places = order(instant for images in cameras.values() for instant in images)
    return {name: places[instant] for images in cameras.values() for instant, name in images.items()}
