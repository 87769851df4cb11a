"""The cameras of an export: guessed, or known from parameters or another model."""

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
from disk.progress import counted

if TYPE_CHECKING:
    from disk.colmap.plan import PlannedImage
    from disk.colmap.rigs import Rig


def check_cameras(options: CameraChoice) -> None:
    """Raise DiskError for options that contradict each other, or values that do not fit the camera model."""
    from disk.colmap.cameras import camera_model, parameters_of

    if options.single_camera and options.camera_per == "folder":
        raise DiskError(
            f"{option('single_camera')} and {option('camera_per', 'folder')} contradict each other; leave one out"
        )
    if options.cameras is not None:
        if options.camera_params is not None:
            raise DiskError(f"{option('cameras')} and {option('camera_params')} both define the cameras; leave one out")
        if options.camera_model != CameraChoice.camera_model or who_shares_cameras(options) != "image":
            raise DiskError(f"{option('cameras')} also defines camera models and sharing; leave those options out")
        if not options.cameras.exists():
            raise ColmapError(f"{options.cameras}: no such file or folder")
    if options.camera_params is not None:
        values, wanted = _parameters(options.camera_params), parameters_of(camera_model(options.camera_model))
        if len(values) != wanted:
            raise ColmapError(
                f"{option('camera_params', options.camera_params)}: {counted(len(values), 'number')}, but the camera "
                f"model {options.camera_model} has {wanted}"
            )


def who_shares_cameras(options: CameraChoice) -> Literal["image", "folder", "collection"]:
    """Which images share a camera."""
    return "collection" if options.single_camera else options.camera_per


def plan_of(files: Sequence[ImageFile], options: CameraChoice) -> list[PlannedImage]:
    """Assign a camera to each image.

    Raises ColmapError for an image without a camera or not of its camera's size, and for images of different sizes
    that share a camera.
    """
    from disk.colmap.cameras import camera_model, read_cameras
    from disk.colmap.plan import plan_cameras, plan_known

    if options.cameras is not None:
        known = read_cameras(options.cameras, [file.relative for file in files])
        missing = [file.relative for file in files if file.relative not in known]
        if missing:
            raise ColmapError(f"{options.cameras} has no camera for {counted(len(missing), 'image')}: {named(missing)}")
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
    """The rig that took the images; None without the option.

    Raises PairsError if folders and names are not those of a rig, ColmapError if the configuration does not fit them.
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
                f"the images {instant} have extensions {suffixes[instant]} and {suffix}: COLMAP groups the images of "
                "an instant by name including the extension; convert them to one type"
            )
    return rig_to_find(list(cameras)) if options.rig_config is None else read_rig(options.rig_config, list(cameras))


def check_plan(plan: Sequence[PlannedImage], options: RigChoice) -> None:
    """Raise ColmapError unless each folder of a rig has exactly one camera, not shared with other folders."""
    if not options.rig:
        return
    used: dict[str, set[int]] = {}
    for image in plan:
        used.setdefault(PurePosixPath(image.file.relative).parts[0], set()).add(image.number)
    numbers = [number for several in used.values() for number in several]
    if len(numbers) > len(used) or len(set(numbers)) < len(numbers):
        raise ColmapError(
            f"{option('rig', True)}: each folder needs exactly one camera, not shared with others, but "
            f"{', '.join(sorted(used))} have {len(set(numbers))}; use {option('camera_per', 'folder')}, which also "
            f"applies {option('camera_params')} to all"
        )


def _parameters(text: str) -> list[float]:
    try:
        values = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        values = []
    if not values or not all(map(math.isfinite, values)):
        raise ColmapError(f"{option('camera_params', text)}: must be comma-separated numbers, such as 920.5,512,341")
    return values


def _check_principal_point(image: PlannedImage, params: str) -> None:
    camera = image.camera
    if camera.focal_length_idxs() and not (
        0 < camera.principal_point_x < camera.width and 0 < camera.principal_point_y < camera.height
    ):
        raise ColmapError(
            f"{option('camera_params', params)}: the principal point is outside {image.file.relative}, which is "
            f"{camera.width} x {camera.height}; are the parameters for another image size?"
        )


def _check_equal_sizes(files: Sequence[ImageFile], params: str) -> None:
    """Raise ColmapError unless all images have one size: the parameters are in pixels."""
    first = image_size(files[0].path)
    for file in files:
        size = image_size(file.path)
        if size != first:
            raise ColmapError(
                f"{file.relative} is {size[0]} x {size[1]} and {files[0].relative} {first[0]} x {first[1]}: "
                f"{option('camera_params', params)} cannot fit both; use {option('cameras')}"
            )
