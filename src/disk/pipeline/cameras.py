"""The cameras that an export starts from: guessed, or known by parameters or another model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from disk.errors import ColmapError, DiskError
from disk.images.listing import ImageFile, named
from disk.images.reading import image_size
from disk.options import option
from disk.pipeline.options import CameraChoice

if TYPE_CHECKING:
    from disk.colmap.database import PlannedImage


def check_cameras(options: CameraChoice) -> None:
    """Raise DiskError for values that contradict each other, or cannot be parameters of the camera model."""
    from disk.colmap.cameras import camera_model, parameters_of

    if options.single_camera and options.camera_per == "folder":
        raise DiskError(
            f"{option('single_camera')} and {option('camera_per', 'folder')} contradict each other; leave one out"
        )
    if options.cameras is not None:
        if options.camera_params is not None:
            raise DiskError(f"{option('cameras')} and {option('camera_params')} both tell the cameras; leave one out")
        if options.camera_model != CameraChoice.camera_model or who_shares_cameras(options) != "image":
            raise DiskError(f"{option('cameras')} tells model and sharing of the cameras as well; leave those out")
        if not options.cameras.exists():
            raise ColmapError(f"{options.cameras}: no such file or folder")
    if options.camera_params is not None:
        values, wanted = _parameters(options.camera_params), parameters_of(camera_model(options.camera_model))
        if len(values) != wanted:
            raise ColmapError(
                f"{option('camera_params', options.camera_params)}: {len(values)} numbers, but a camera of model "
                f"{options.camera_model} has {wanted}"
            )


def who_shares_cameras(options: CameraChoice) -> Literal["image", "folder", "collection"]:
    """The images that share a camera by the options."""
    return "collection" if options.single_camera else options.camera_per


def plan_of(files: Sequence[ImageFile], options: CameraChoice) -> list[PlannedImage]:
    """The camera of each image by the options.

    Raises ColmapError for images whose size is not their camera's, of unequal size under one camera, or without one.
    """
    from disk.colmap.cameras import camera_model, read_cameras
    from disk.colmap.database import plan_cameras, plan_known

    if options.cameras is not None:
        known = read_cameras(options.cameras, [file.relative for file in files])
        missing = [file.relative for file in files if file.relative not in known]
        if missing:
            raise ColmapError(f"{options.cameras} has no camera for {len(missing)} images: {named(missing)}")
        return plan_known(files, known)
    plan = plan_cameras(files, camera_model(options.camera_model), who_shares_cameras(options))
    if options.camera_params is not None:
        _check_equal_sizes(files, options.camera_params)
        for image in plan:
            image.camera.params = _parameters(options.camera_params)
            image.camera.has_prior_focal_length = True
            _check_principal_point(image, options.camera_params)
    return plan


def _parameters(text: str) -> list[float]:
    try:
        values = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        values = []
    if not values or not all(map(math.isfinite, values)):
        raise ColmapError(
            f"{option('camera_params', text)}: must be numbers with commas between, such as 920.5,512,341"
        )
    return values


def _check_principal_point(image: PlannedImage, params: str) -> None:
    camera = image.camera
    if camera.focal_length_idxs() and not (
        0 < camera.principal_point_x < camera.width and 0 < camera.principal_point_y < camera.height
    ):
        raise ColmapError(
            f"{option('camera_params', params)}: the principal point is outside of {image.file.relative}, which is "
            f"{camera.width} x {camera.height}; are they of images of another size?"
        )


def _check_equal_sizes(files: Sequence[ImageFile], params: str) -> None:
    """The parameters count pixels, so they are of images of one size, in which the principal point lies."""
    first = image_size(files[0].path)
    for file in files:
        size = image_size(file.path)
        if size != first:
            raise ColmapError(
                f"{file.relative} is {size[0]} x {size[1]} and {files[0].relative} {first[0]} x {first[1]}: "
                f"{option('camera_params', params)} cannot be of both; use {option('cameras')}"
            )
