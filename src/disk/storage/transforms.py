"""transforms.json, the cameras and poses of nerfstudio and instant-ngp.

Its poses are camera-to-world, with y up and z backwards (OpenGL); here x_cam = R x_world + t with y down and z
forwards, as in COLMAP. Principal points are relative to the corner of the first pixel, as in COLMAP.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from disk.errors import ColmapError
from disk.shapes import Float
from disk.storage.new_file import write_json

_FLIP = np.diag([1.0, -1.0, -1.0])
# parameters after fx, fy, cx, cy, in COLMAP's order
_DISTORTION = {
    "PINHOLE": (),
    "OPENCV": ("k1", "k2", "p1", "p2"),
    "OPENCV_FISHEYE": ("k1", "k2", "k3", "k4"),
}
_ALL = ("k1", "k2", "k3", "k4", "p1", "p2")
_ROTATION_TOLERANCE = 1e-3


class NoSizeError(ColmapError):
    """The file does not tell the size of its images."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A posed image, x_cam = R x_world + t.

    path, mask: as in the file
    model, params: camera as in COLMAP
    width, height: in pixels
    """

    path: str
    model: str
    width: int
    height: int
    params: tuple[float, ...]
    R: Float[np.ndarray, "3 3"]
    t: Float[np.ndarray, " 3"]
    mask: str | None = None


def write_transforms(path: Path, frames: Sequence[Frame], points: str | None = None) -> None:
    """Write pinhole cameras and poses; errors as for `new_file`.

    points: path of a PLY file of 3D points, as it is written into the file
    """
    written: list[dict[str, Any]] = []
    for frame in frames:
        pose = np.eye(4)
        pose[:3, :3] = frame.R.T @ _FLIP
        pose[:3, 3] = -frame.R.T @ frame.t
        fx, fy, cx, cy = frame.params
        entry = {"file_path": frame.path, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": frame.width}
        entry |= {"h": frame.height, "transform_matrix": pose.tolist()}
        written.append(entry | ({"mask_path": frame.mask} if frame.mask else {}))
    content: dict[str, Any] = {"camera_model": "OPENCV"}
    if points is not None:
        content["ply_file_path"] = points
    write_json(path, content | {"frames": written})


def read_transforms(path: Path, size: tuple[int, int] | None = None) -> list[Frame]:
    """Read cameras and poses.

    size: (width, height) of the images in pixels; default: as in the file

    Raises NoSizeError if the size is neither given nor in the file, and ColmapError for another kind of file, and for
    cameras that COLMAP does not support.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not content["frames"]:
            raise ColmapError(f"{path} has no frames")
        return [_frame(path, {**content, **frame}, size) for frame in content["frames"]]
    except OSError as error:
        raise ColmapError(f"cannot read {path}: {error.strerror or error}") from None
    except KeyError as error:
        raise ColmapError(f"{path} has no {error.args[0]!r}; it is not a transforms.json of nerfstudio") from None
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ColmapError(f"{path} is not a transforms.json of nerfstudio or instant-ngp ({error})") from None


def _frame(path: Path, entry: dict[str, Any], size: tuple[int, int] | None) -> Frame:
    pose = np.array(entry["transform_matrix"], np.float64)
    if pose.shape not in ((4, 4), (3, 4)) or not np.isfinite(pose).all():
        raise ValueError(f"transform_matrix of {entry['file_path']} is not 4 x 4 finite numbers")
    rotation = pose[:3, :3]
    if np.abs(rotation.T @ rotation - np.eye(3)).max() > _ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        raise ValueError(f"transform_matrix of {entry['file_path']} does not begin with a rotation")
    if size is None and not ("w" in entry and "h" in entry):
        raise NoSizeError(f"{path} has no 'w' and 'h'; add the width and height of the images in pixels")
    width, height = (int(entry["w"]), int(entry["h"])) if size is None else size
    model, params = _camera(entry, width, height)
    R = (rotation @ _FLIP).T
    return Frame(str(entry["file_path"]), model, width, height, params, R, -R @ pose[:3, 3])


def _camera(entry: dict[str, Any], width: int, height: int) -> tuple[str, tuple[float, ...]]:
    """The COLMAP camera model and parameters of a frame, chosen by its distortion."""
    if "fl_x" in entry:
        fx = float(entry["fl_x"])
    else:
        fx = width / 2 / math.tan(float(entry["camera_angle_x"]) / 2)
    fy = float(entry.get("fl_y", fx))
    distortion = {name: float(entry.get(name, 0.0)) for name in _ALL}
    is_distorted = any(distortion.values())
    name = str(entry.get("camera_model", "OPENCV"))
    model = {"OPENCV": "OPENCV" if is_distorted else "PINHOLE", "PINHOLE": "PINHOLE", "SIMPLE_PINHOLE": "PINHOLE"}
    model |= {"OPENCV_FISHEYE": "OPENCV_FISHEYE", "SIMPLE_RADIAL": "OPENCV", "RADIAL": "OPENCV"}
    if name not in model or entry.get("is_fisheye"):
        raise ValueError(f"cameras of model {'is_fisheye' if name in model else name} are not supported")
    found = model[name]
    lost = [key for key in _ALL if distortion[key] and key not in _DISTORTION[found]]
    if lost:
        raise ValueError(f"a camera of model {name} has no parameter {', '.join(lost)}")
    cx, cy = float(entry.get("cx", width / 2)), float(entry.get("cy", height / 2))
    return found, (fx, fy, cx, cy, *(distortion[key] for key in _DISTORTION[found]))
