"""The cameras that an export starts from: guessed, or known by parameters or another model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from disk.errors import ColmapError, DiskError
from disk.images.listing import ImageFile, named
from disk.images.reading import image_size
from disk.options import option
from disk.pairs.rigs import cameras_of
from disk.pipeline.options import CameraChoice, RigChoice

if TYPE_CHECKING:
    from disk.colmap.database import PlannedImage
    from disk.colmap.rigs import Rig


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


def rig_of(files: Sequence[ImageFile], options: RigChoice) -> Rig | None:
    """The rig whose images these are, if they are meant to be one's.

    Raises PairsError where folders and names are not those of a rig, ColmapError for a configuration that is not its.
    """
    if not options.rig:
        if options.rig_config is not None:
            raise DiskError(f"{option('rig_config')} is for {option('rig', True)}")
        return None
    from disk.colmap.rigs import read_rig, rig_to_find

    cameras = cameras_of(file.name for file in files)
    suffixes: dict[str, str] = {}
    for file in files:
        instant = PurePosixPath(file.name).name
        suffix = PurePosixPath(file.relative).suffix
        if suffixes.setdefault(instant, suffix) != suffix:
            raise ColmapError(
                f"the images {instant} end in {suffixes[instant]} and {suffix}: COLMAP takes images of a rig for those "
                "of one instant when their names are the same to the end; convert one kind"
            )
    return rig_to_find(list(cameras)) if options.rig_config is None else read_rig(options.rig_config, list(cameras))


def check_plan(plan: Sequence[PlannedImage], options: RigChoice) -> None:
    """Raise ColmapError where images are of a rig, but the folder of each camera has not one camera of its own."""
    if not options.rig:
        return
    used: dict[str, set[int]] = {}
    for image in plan:
        used.setdefault(PurePosixPath(image.file.relative).parts[0], set()).add(image.number)
    numbers = [number for several in used.values() for number in several]
    if len(numbers) > len(used) or len(set(numbers)) < len(numbers):
        raise ColmapError(
            f"{option('rig', True)}: the images of each folder have one camera of their own, but here "
            f"{', '.join(sorted(used))} have {len(set(numbers))}; use {option('camera_per', 'folder')}, which also "
            f"takes {option('camera_params')} for all"
        )


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
