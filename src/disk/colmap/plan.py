"""Which camera each image of an export gets: guessed, shared or known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import pycolmap

from disk.colmap.cameras import KnownCamera, guess_camera, to_colmap
from disk.errors import ColmapError
from disk.images.listing import ImageFile
from disk.images.reading import image_size
from disk.options import option
from disk.progress import track

CameraPer = Literal["image", "folder", "collection"]
_SHARES: dict[CameraPer, Callable[[ImageFile], str]] = {
    "image": lambda image: image.relative,
    "folder": lambda image: PurePosixPath(image.relative).parent.as_posix(),
    "collection": lambda image: "",
}


@dataclass(frozen=True, eq=False)
class PlannedImage:
    """An image and the camera it gets in the database; images with the same number share it."""

    file: ImageFile
    number: int
    camera: pycolmap.Camera


def plan_cameras(images: Sequence[ImageFile], model: str, camera_per: CameraPer = "image") -> list[PlannedImage]:
    """Plan the cameras of an export, each guessed from its first image.

    model: camera model, as returned by `camera_model`
    camera_per: which images share a camera

    Raises ColmapError if images of different sizes would share a camera, ImageError for a file that is not an image.
    """
    cameras: dict[str, tuple[int, pycolmap.Camera]] = {}
    check_shared_cameras(images, camera_per)
    plan = []
    for image in track(images, "cameras", "image"):
        key = _SHARES[camera_per](image)
        if key not in cameras:
            cameras[key] = len(cameras), guess_camera(image.path, model)
        plan.append(PlannedImage(image, *cameras[key]))
    return plan


def plan_known(images: Sequence[ImageFile], cameras: Mapping[str, KnownCamera]) -> list[PlannedImage]:
    """Plan an export with known cameras; images with equal cameras share one.

    cameras: by the relative path of each image

    Raises ColmapError if the size of an image differs from its camera's, ImageError for a file that is not an image.
    """
    numbers: dict[KnownCamera, int] = {}
    plan = []
    for image in images:
        known = cameras[image.relative]
        size = image_size(image.path)
        if size != (known.width, known.height):
            raise ColmapError(
                f"{image.path} is {size[0]} x {size[1]} but its camera {known.width} x {known.height}; give images of "
                "the size that the cameras were calibrated for"
            )
        camera = to_colmap(known)
        camera.has_prior_focal_length = True
        plan.append(PlannedImage(image, numbers.setdefault(known, len(numbers)), camera))
    return plan


def check_shared_cameras(images: Sequence[ImageFile], camera_per: CameraPer) -> None:
    """Raise ColmapError if images of different sizes would share a camera, ImageError for a file that is no image."""
    firsts: dict[str, tuple[tuple[int, int], ImageFile]] = {}
    if camera_per == "image":
        return
    for image in images:
        width, height = image_size(image.path)
        (first_width, first_height), first = firsts.setdefault(_SHARES[camera_per](image), ((width, height), image))
        if (first_width, first_height) != (width, height):
            raise ColmapError(
                f"{first.relative} is {first_width} x {first_height} and {image.relative} "
                f"{width} x {height}: they cannot share a camera; use {option('camera_per', 'image')}, or folder"
            )
