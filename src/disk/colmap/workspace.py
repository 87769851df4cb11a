"""COLMAP workspaces: a posed model, its images and, after dense stereo, their depth maps.

Reads the layout of COLMAP's undistorter and dense stereo (`images/`, `sparse/`, `stereo/depth_maps/`) and a bare
reconstruction (`sparse/0/`, with the images anywhere), binary or text. COLMAP puts the centre of the first pixel at
(0.5, 0.5), so half a pixel is subtracted from the principal point.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from disk.errors import ColmapError, ImageError
from disk.images.reading import image_size
from disk.options import option
from disk.progress import log
from disk.shapes import Float, Int
from disk.storage.names import leads_out

_PINHOLE = ("PINHOLE", "SIMPLE_PINHOLE")
_CUT_SHORT = "the file is cut short; copy or make the model again"


@dataclass(frozen=True, eq=False)
class WorkspaceImage:
    """A posed image of a model, x_cam = R x_world + t.

    name: path relative to the image folder
    camera_model: COLMAP's name of the camera model
    K: exact for pinhole models only
    points: ids of the 3D points it sees, without duplicates
    """

    name: str
    camera_model: str
    width: int
    height: int
    K: Float[np.ndarray, "3 3"]
    R: Float[np.ndarray, "3 3"]
    t: Float[np.ndarray, " 3"]
    points: Int[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Workspace:
    """A model, the folder of its images, and the folder where its depth maps would be."""

    model: Path
    image_folder: Path
    depth_folder: Path
    images: list[WorkspaceImage]

    @property
    def distorted(self) -> list[str]:
        """The camera models in use that are not pinhole models."""
        return sorted({image.camera_model for image in self.images} - set(_PINHOLE))

    def depth_map(self, name: str) -> Path | None:
        """The depth map of an image: geometric (checked against other views), else photometric; None without one."""
        for kind in ("geometric", "photometric"):
            path = self.depth_folder / f"{name}.{kind}.bin"
            if path.is_file():
                return path
        return None


def open_workspace(root: Path, image_folder: Path | None = None) -> Workspace:
    """Read the model of a workspace or reconstruction, the largest if there are several.

    image_folder: default: `root/images`

    Raises ColmapError if anything is missing.
    """
    images_of = {model: _read_model(model) for model in _models(root)}
    model = _largest(root, {path: len(images) for path, images in images_of.items()})
    folder = root / "images" if image_folder is None else image_folder
    if not folder.is_dir():
        raise ColmapError(f"{folder}: no such folder; tell where the images of the model are with {option('images')}")
    if not images_of[model]:
        raise ColmapError(f"{model}: no image of the model has a pose")
    return Workspace(model, folder, root / "stereo" / "depth_maps", images_of[model])


def find_model(root: Path) -> Path:
    """The model of a workspace or reconstruction, the largest if there are several; ColmapError if there is none."""
    models = _models(root)
    if len(models) == 1:
        return models[0]
    return _largest(root, {path: open_model(path).num_reg_images() for path in models})


def _models(root: Path) -> list[Path]:
    if not root.is_dir():
        raise ColmapError(f"{root}: no such folder")
    numbered = sorted(path for path in (root / "sparse").glob("*") if path.is_dir())
    models = [path for path in (root / "sparse", *numbered, root) if _is_model(path)]
    if not models:
        raise ColmapError(
            f"{root}: no COLMAP model (cameras, images, points3D as .bin or .txt) here or in sparse/; "
            "a model of known poses needs an empty points3D.txt"
        )
    return models


def _largest(root: Path, images: dict[Path, int]) -> Path:
    model = max(images, key=lambda path: images[path])
    if len(images) > 1:
        log.info("%s: using the largest of %d models, %s", root, len(images), model)
    return model


def usable_images(workspace: Workspace) -> tuple[list[WorkspaceImage], dict[str, str]]:
    """The images whose file exists and has the size of its camera; and what is wrong with the others, by name."""
    usable, faults = [], dict[str, str]()
    for image in workspace.images:
        path = workspace.image_folder / image.name
        if leads_out(image.name):
            faults[image.name] = f"{image.name} lies outside the image folder"
            continue
        try:
            size = image_size(path)
        except ImageError as error:
            faults[image.name] = str(error)
            continue
        if size == (image.width, image.height):
            usable.append(image)
        else:
            faults[image.name] = f"{path} is {size[0]} x {size[1]} but its camera {image.width} x {image.height}"
    return usable, faults


def read_depth_map(path: Path) -> Float[np.ndarray, "h w"]:
    """Read a depth map of COLMAP: the text `width&height&1&`, then float32 values row by row.

    Raises ColmapError for another kind of file, and for an incomplete one.
    """
    content = path.read_bytes()
    header = content[:64].split(b"&", 3)
    try:
        width, height, channels = (int(number) for number in header[:3])
    except ValueError as error:
        raise ColmapError(f"{path}: not a COLMAP depth map") from error
    start = sum(len(number) + 1 for number in header[:3])
    if min(width, height) < 1 or channels != 1 or len(content) - start != 4 * width * height:
        raise ColmapError(f"{path}: the depth map is incomplete; run COLMAP's dense stereo again")
    return np.frombuffer(content, dtype="<f4", offset=start).reshape(height, width)


def _is_model(folder: Path) -> bool:
    return any(
        all((folder / f"{part}{suffix}").is_file() for part in ("cameras", "images", "points3D"))
        for suffix in (".bin", ".txt")
    )


def _is_text(folder: Path) -> bool:
    return not (folder / "images.bin").is_file()


def open_model(folder: Path) -> pycolmap.Reconstruction:
    """Read a model, binary or text, with the full names of its images; ColmapError if it cannot be read."""
    if not _is_text(folder):
        _check_complete(folder)
    try:
        model = pycolmap.Reconstruction(folder)
        if _is_text(folder):
            for image_id, name in _names_in_text(folder / "images.txt").items():
                if image_id in model.images:
                    model.image(image_id).name = name
    except (ValueError, RuntimeError, LookupError, OSError, MemoryError) as error:
        raise ColmapError(f"{folder}: the COLMAP model cannot be read ({_line(error)})") from error
    return model


def _names_in_text(path: Path) -> dict[int, str]:
    """Image names in an images.txt, by id: everything after the ninth field, which COLMAP cuts at the first space."""
    names = {}
    lines = iter(path.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line.strip() and not line.startswith("#"):
            fields = line.strip().split(maxsplit=9)
            if len(fields) == 10:
                names[int(fields[0])] = fields[9]
            next(lines, None)  # the line of observations, which may be empty
    return names


def _read_model(folder: Path) -> list[WorkspaceImage]:
    """The posed images of a model, sorted by name."""
    model = open_model(folder)
    cameras = folder / "cameras.bin"
    if cameras.is_file() and cameras.stat().st_size < 8 + sum(24 + 8 * len(c.params) for c in model.cameras.values()):
        raise ColmapError(f"{cameras}: {_CUT_SHORT}")
    images = []
    for index in model.reg_image_ids():
        image = model.images[index]
        camera = model.cameras[image.camera_id]
        if not camera.focal_length_idxs():
            raise ColmapError(f"{folder}: {camera.model_name} cameras are spherical and have no pinhole view")
        K = camera.calibration_matrix().copy()
        K[:2, 2] -= 0.5
        pose = image.cam_from_world()
        points = np.unique([point.point3D_id for point in image.get_observation_points2D()])
        images.append(
            WorkspaceImage(
                name=image.name,
                camera_model=camera.model_name,
                width=camera.width,
                height=camera.height,
                K=K,
                R=pose.rotation.matrix(),
                t=pose.translation,
                points=points.astype(np.int64),
            )
        )
    return sorted(images, key=lambda image: image.name)


def _check_complete(folder: Path) -> None:
    """Raise ColmapError for truncated files on which pycolmap would loop forever or fill the memory."""
    # bytes before the item count, format of the count, bytes per item; in images.bin a name precedes the count
    sizes = {"points3D.bin": (43, "<Q", 8), "frames.bin": (64, "<I", 16), "images.bin": (64, "<Q", 24)}
    for name, (fixed, count, item) in sizes.items():
        path = folder / name
        if not path.exists():  # frames.bin exists since COLMAP 3.12
            continue
        with open(path, "rb") as file:
            size = path.stat().st_size
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if size else b""
            try:
                (records,) = struct.unpack_from("<Q", content)
                end = 8
                for _ in range(records):
                    if name == "images.bin":
                        end = _end_of_text(content, end + fixed) - fixed
                    (items,) = struct.unpack_from(count, content, end + fixed)
                    end += fixed + struct.calcsize(count) + item * items
            except (struct.error, ValueError, OverflowError):
                end = size + 1
        if end > size:
            raise ColmapError(f"{path}: {_CUT_SHORT}")


def _end_of_text(content: mmap.mmap | bytes, start: int) -> int:
    end = content.find(b"\0", start)
    if end < 0:
        raise ValueError
    return end + 1


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
