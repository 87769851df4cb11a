"""Undistorted copies of images, and the same model with pinhole cameras.

DISK, not COLMAP, decodes and writes the images: it reads more formats, and the copies have no EXIF orientation that
other programs might apply.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import pycolmap
from PIL import Image

from disk.colmap.workspace import Workspace, open_model, open_workspace
from disk.devices import usable_cores
from disk.errors import ColmapError
from disk.images.masks import load_mask
from disk.images.orientation import AS_STORED, to_stored, upright_size
from disk.images.reading import image_orientation, image_size, one_large_at_a_time, read_image
from disk.images.resizing import Placement
from disk.progress import track
from disk.shapes import UInt8
from disk.storage.new_file import new_file

_PINHOLE = ("PINHOLE", "SIMPLE_PINHOLE")
_KEPT = (".jpg", ".jpeg", ".png")
_JPEG_QUALITY = 98


def undistorted_name(name: str) -> str:
    """The name of an undistorted image: the same, but .png for formats that not every program reads."""
    path = PurePosixPath(name)
    return name if path.suffix.lower() in _KEPT else path.with_suffix(".png").as_posix()


def undistort(
    workspace: Workspace, names: Sequence[str], target: Path, max_size: int = 0, masks: Mapping[str, Path] | None = None
) -> Workspace:
    """Write undistorted copies of the named images and their model to `target`: images/, masks/, sparse/0/.

    Returns the workspace in `target`. Keeps images and masks that are already there. No pixel of a copy lies outside
    its original.
    max_size: maximum of the longer side in pixels; 0: no limit
    masks: files by image name; the mask of a.jpg is written as masks/a.jpg.png, with 0 where the original is 0

    Raises ColmapError for cameras that COLMAP cannot undistort, ImageError for images and masks that cannot be read.
    """
    model = open_model(workspace.model)
    options = pycolmap.UndistortCameraOptions(max_image_size=max_size or -1)
    wanted = {name: undistorted_name(name) for name in names}
    if len(set(wanted.values())) < len(wanted):
        raise ColmapError(f"{workspace.image_folder}: two images would have one name as .png; rename one")
    by_name = {model.image(image_id).name: model.image(image_id) for image_id in model.reg_image_ids()}

    def write(name: str) -> None:
        source, camera = workspace.image_folder / name, model.camera(by_name[name].camera_id)
        with one_large_at_a_time(source):
            _write_image(source, target / "images" / wanted[name], camera, options)
            if masks and name in masks:
                _write_mask(source, masks[name], target / "masks" / f"{wanted[name]}.png", camera, options)

    with ThreadPoolExecutor(usable_cores()) as pool:
        for _ in track(pool.map(write, names), "undistort", "image", len(names)):
            pass
    _make_pinhole(model, wanted, options)
    sparse = target / "sparse" / "0"
    sparse.mkdir(parents=True, exist_ok=True)
    model.write(sparse)
    return open_workspace(target)


def _write_image(source: Path, target: Path, camera: pycolmap.Camera, options: pycolmap.UndistortCameraOptions) -> None:
    if target.is_file():
        return
    is_small = options.max_image_size < 0 or max(image_size(source)) <= options.max_image_size
    is_same = camera.model_name in _PINHOLE and is_small and target.name == source.name
    if is_same and image_orientation(source) == AS_STORED:
        with new_file(target) as temporary:
            shutil.copyfile(source, temporary)
        return
    _save(_undistorted(read_image(source), camera, options), target)


def _write_mask(
    source: Path, mask: Path, target: Path, camera: pycolmap.Camera, options: pycolmap.UndistortCameraOptions
) -> None:
    if target.is_file():
        return
    orientation = image_orientation(source)
    width, height = upright_size(orientation, image_size(source))
    seen = load_mask(mask, Placement(width, height, 1.0, 1.0, orientation)).numpy()
    stored = to_stored(seen.astype(np.uint8) * 255, orientation)
    warped = _undistorted(stored, camera, options)
    # pixels at least half outside the mask are masked
    _save(np.where(warped > 127, 255, 0).astype(np.uint8), target)


def _undistorted(pixels: np.ndarray, camera: pycolmap.Camera, options: pycolmap.UndistortCameraOptions) -> np.ndarray:
    try:
        bitmap, _ = pycolmap.undistort_image(options, pycolmap.Bitmap.from_array(pixels), camera)
    except (ValueError, RuntimeError) as error:
        raise ColmapError(f"cannot undistort {camera.model_name} cameras ({' '.join(str(error).split())})") from error
    return bitmap.to_array()


def _save(pixels: UInt8[np.ndarray, ...], target: Path) -> None:
    image = Image.fromarray(pixels.squeeze())
    with new_file(target) as temporary:
        if target.suffix.lower() == ".png":
            image.save(temporary, "PNG")
        else:
            image.save(temporary, "JPEG", quality=_JPEG_QUALITY, subsampling=0)


def _make_pinhole(
    model: pycolmap.Reconstruction, names: Mapping[str, str], options: pycolmap.UndistortCameraOptions
) -> None:
    """Replace the cameras by pinhole ones, move the observations, rename the images, and deregister unnamed ones."""
    pinhole = {number: pycolmap.undistort_camera(options, camera) for number, camera in model.cameras.items()}
    _leave_out(model, {image_id for image_id in model.reg_image_ids() if model.image(image_id).name not in names})
    for image_id in model.reg_image_ids():
        image = model.image(image_id)
        before, after = model.camera(image.camera_id), pinhole[image.camera_id]
        seen = np.array([point.xy for point in image.points2D]).reshape(-1, 2)
        if len(seen):
            rays = np.column_stack([before.cam_from_img(seen), np.ones(len(seen))])
            for point, xy in zip(image.points2D, after.img_from_cam(rays), strict=True):
                point.xy = xy
        image.name = names[image.name]
    for number, after in pinhole.items():
        camera = model.camera(number)
        camera.model = after.model
        camera.width, camera.height = after.width, after.height
        camera.params = list(after.params)
    model.update_point_3d_errors()


def _leave_out(model: pycolmap.Reconstruction, left_out: set[int]) -> None:
    """Remove images from a model; the others of their frame, if they are of a rig, stay."""
    frames = []
    for frame_id, frame in model.frames.items():
        kept = [one for one in frame.data_ids if one.id not in left_out]
        if not kept:
            continue
        # a new one each: the model's own frames point to rigs that are replaced below
        smaller = pycolmap.Frame(frame_id=frame_id, rig_id=frame.rig_id)
        for one in kept:
            smaller.add_data_id(one)
        if frame.has_pose():
            smaller.rig_from_world = frame.rig_from_world
        frames.append(smaller)
    for image_id in left_out:
        for index in model.image(image_id).get_observation_point2D_idxs():
            if model.image(image_id).point2D(index).has_point3D():  # not deleted with the rest of its track
                model.delete_observation(image_id, index)
        del model.images[image_id]
    if left_out:
        model.set_rigs_and_frames(list(model.rigs.values()), frames)
