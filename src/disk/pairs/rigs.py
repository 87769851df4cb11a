"""Cameras that fire together: each is a folder of images, and images of one instant share a name.

left/0001 and right/0001 were taken at the same time. An instant that a camera has no image of is no mistake.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from disk.errors import PairsError
from disk.pairs.choose import Pair, order, sequential, tidy


def cameras_of(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """The images of each camera by their instants: {left: {0001: left/0001, ...}, right: ...}, cameras sorted.

    Raises PairsError where there are not several cameras, an image is in no camera's folder, or a camera shares no
    instant with another.
    """
    cameras: dict[str, dict[str, str]] = {}
    for name in sorted(names):
        folder, _, instant = name.partition("/")
        if not instant or "/" in instant:
            raise PairsError(
                f"{name!r} is not in the folder of a camera: a rig needs one folder for each camera, such as left/ and "
                "right/, with its images right in it"
            )
        cameras.setdefault(folder, {})[instant] = name
    if len(cameras) < 2:
        raise PairsError(
            f"a rig needs several cameras, but all images are in one folder, {', '.join(cameras)}/; give the folder "
            "that holds the folders of all cameras"
        )
    for camera, images in cameras.items():
        if not any(images.keys() & cameras[other].keys() for other in cameras if other != camera):
            raise PairsError(
                f"no image of {camera}/ has the name of an image of another camera, such as {min(images)!r}: images "
                "that were taken at one instant must share a name"
            )
    return cameras


def along_and_across(names: Iterable[str], overlap: int) -> list[Pair]:
    """Each image with the `overlap` after it of its camera, and with those of the other cameras at its instant.

    Raises PairsError as `cameras_of`, DiskError for an overlap below 1.
    """
    cameras = cameras_of(names)
    pairs = [pair for images in cameras.values() for pair in sequential(images.values(), overlap)]
    for first, second in itertools.combinations(cameras.values(), 2):
        pairs += [(first[instant], second[instant]) for instant in first.keys() & second.keys()]
    return tidy(pairs)


def instants(names: Iterable[str]) -> dict[str, int]:
    """The place of each image in time: the same for all images of an instant. Raises PairsError as `cameras_of`."""
    cameras = cameras_of(names)
    places = order(instant for images in cameras.values() for instant in images)
    return {name: places[instant] for images in cameras.values() for instant, name in images.items()}
