"""Known cameras and poses for the images of a folder, from a COLMAP model or a transforms.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from disk.errors import ColmapError, ImageError
from disk.images.listing import ImageFile, named
from disk.images.reading import image_size
from disk.options import option
from disk.progress import counted, log
from disk.storage.transforms import Frame, NoSizeError, read_transforms

if TYPE_CHECKING:
    from disk.colmap.triangulation import KnownPose

TRANSFORMS = "transforms.json"


@dataclass(frozen=True, eq=False)
class PosedFiles:
    """The images of a folder that have a pose, sorted by name, and their poses by path.

    without_image: names in the model without a file in the folder
    without_pose: images of the folder that are not in the model
    """

    files: list[ImageFile]
    poses: dict[str, KnownPose]
    without_image: list[str]
    without_pose: list[str]


def read_posed_files(model: Path, images: Path, files: Sequence[ImageFile]) -> PosedFiles:
    """Assign poses to image files.

    model: a COLMAP model, a transforms.json, or the folder of one
    images: the image folder
    files: its images

    Raises ColmapError if the model cannot be read or an image does not have the size of its camera, ImageError if fewer
    than two images have a pose.
    """
    known = _read(model, images, files)
    by_path = {file.relative: file for file in files}
    found = [by_path[name] for name in sorted(known) if name in by_path]
    if len(found) < 2:
        raise ImageError(
            f"only {len(found)} of the {len(known)} images of {model} found in {images}; at least two are needed. Is "
            "this the wrong folder? "
            f"The model names {named(sorted(known), 3)}, the folder has {named(sorted(by_path), 3)}"
        )
    wrong = []
    for file in found:
        size, camera = image_size(file.path), known[file.relative].camera
        if size != (camera.width, camera.height):
            wrong.append(f"{file.relative} is {size[0]} x {size[1]} but its camera {camera.width} x {camera.height}")
    if wrong:
        raise ColmapError(f"{counted(len(wrong), 'image')} of another size than in {model}: {'; '.join(wrong[:3])}")
    without_image = sorted(set(known) - set(by_path))
    without_pose = sorted(set(by_path) - set(known))
    if without_pose:
        log.warning(
            "%s without a pose in %s, not used: %s", counted(len(without_pose), "image"), model, named(without_pose)
        )
    return PosedFiles(found, {file.relative: known[file.relative] for file in found}, without_image, without_pose)


def _read(model: Path, images: Path, files: Sequence[ImageFile]) -> dict[str, KnownPose]:
    """Poses by image path relative to the folder; poses of missing images by their name in the model."""
    from disk.colmap.cameras import KnownCamera
    from disk.colmap.triangulation import KnownPose, read_known_poses
    from disk.colmap.workspace import find_model

    if model.is_dir() and not (model / TRANSFORMS).is_file():
        return read_known_poses(find_model(model))
    path = model / TRANSFORMS if model.is_dir() else model
    if not path.is_file():
        raise ColmapError(f"{model}: no such folder or file")
    if path.suffix.lower() != ".json":
        raise ColmapError(f"{model} is neither a COLMAP model folder nor a transforms.json")
    try:
        frames = read_transforms(path)
    except NoSizeError:
        frames = read_transforms(path, image_size(files[0].path))
    poses: dict[str, KnownPose] = {}
    index = _Names(path.parent, images, files)
    for frame in frames:
        name = index.find(frame)
        if name in poses:
            raise ColmapError(f"{path} has two poses of {name}")
        camera = KnownCamera(frame.model, frame.width, frame.height, frame.params)
        poses[name] = KnownPose(camera, frame.R, frame.t)
    return poses


class _Names:
    """Finds the image that a frame's path refers to, relative to the json's folder or to another folder."""

    def __init__(self, start: Path, images: Path, files: Sequence[ImageFile]) -> None:
        self._start, self._images = start, images.resolve()
        self._paths: Mapping[str, str] = {file.name: file.relative for file in files} | {
            file.relative: file.relative for file in files
        }

    def find(self, frame: Frame) -> str:
        """The image's path relative to the image folder; the frame's own path if the image is missing."""
        given = PurePosixPath(frame.path.replace("\\", "/"))
        whole = (self._start / given).resolve()
        if self._images in whole.parents and whole.relative_to(self._images).as_posix() in self._paths:
            return self._paths[whole.relative_to(self._images).as_posix()]
        parts = [part for part in given.parts if part not in (".", "/")]
        for first in range(len(parts)):
            name = "/".join(parts[first:])
            if name in self._paths:
                return self._paths[name]
        return given.as_posix()


def missing_message(posed: PosedFiles, model: Path) -> str:
    """The message for poses without an image."""
    return (
        f"{counted(len(posed.without_image), 'image')} of {model} missing: {named(posed.without_image)}; the rest is "
        f"done ({option('keep_going', True)} treats this as success)"
    )
