"""The files of one posed image in a data set: its calibration and its depth map.

Both formats are the original's: `calibration_NAME.EXT.h5` holds K (3, 3), R (3, 3) and T (3,) with
x_cam = R x_world + T; `NAME.h5` holds `depth` (H, W), 0 where unknown. The files of an image in a sub-folder are in a
sub-folder of the same name. K follows the package's convention: (0, 0) is the centre of the first pixel. The original's
importer keeps COLMAP's convention, in which cx and cy are half a pixel larger.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple

import h5py
import numpy as np

from disk.errors import ArtifactError, DatasetError
from disk.shapes import Float
from disk.storage.reading import read_datasets

_ORTHONORMAL = 1e-3  # largest entry of R R^T - I; float16 rotations and rounded text pass


class Calibration(NamedTuple):
    """A camera as stored, in float64: x_cam = R x_world + T, pixel = K x_cam up to scale."""

    K: Float[np.ndarray, "3 3"]
    R: Float[np.ndarray, "3 3"]
    T: Float[np.ndarray, " 3"]


def find_image(folder: Path, name: str, cut: bool) -> Path:
    """The file of an image: under its name, or as a .jpg with the same stem, as in the authors' data.

    cut: also try the name cut at its first dot, as the original's reader does.
    """
    image = PurePosixPath(name)
    stems = [image.parent / image.stem, *([cut_name(name)] if cut else [])]
    return _first_file(folder, [image, *(PurePosixPath(f"{stem}.jpg") for stem in stems)]) or folder / name


def find_calibration(folder: Path, name: str) -> Path | None:
    """The calibration file of an image, whose name may include the image's extension."""
    image = PurePosixPath(name)
    files = [image.parent / f"calibration_{stem}.h5" for stem in (image.name, image.stem)]
    return _first_file(folder, [*files, PurePosixPath(f"calibration_{name}.h5")])


def find_depth(folder: Path, name: str, cut: bool = False) -> Path | None:
    """The depth file of an image, whose name may include the image's extension.

    cut: as in `find_image`.
    """
    image = PurePosixPath(name)
    stems = [image, image.parent / image.stem, *([cut_name(name)] if cut else [])]
    return _first_file(folder, [PurePosixPath(f"{stem}.h5") for stem in stems])


def read_calibration(path: Path) -> Calibration:
    """Read a calibration.

    Raises DatasetError if the file is damaged, a value is not finite, R is not a rotation or K not a camera matrix.
    """
    try:
        parts = [part.astype(np.float64) for part in read_datasets(path, ("K", "R", "T"))]
    except ArtifactError as error:
        raise DatasetError(f"{path}: not a calibration with K, R and T ({error})") from error
    K, R, T = parts
    if K.shape != (3, 3) or R.shape != (3, 3) or T.size != 3:
        raise DatasetError(f"{path}: K, R and T have shapes {K.shape}, {R.shape}, {T.shape} instead of 3x3, 3x3, 3")
    if not all(np.isfinite(part).all() for part in parts):
        raise DatasetError(f"{path}: K, R or T is not finite; remove the tuples of this image")
    if np.abs(R @ R.T - np.eye(3)).max() > _ORTHONORMAL or np.linalg.det(R) < 0:
        raise DatasetError(f"{path}: R is not a rotation; remove the tuples of this image")
    if K[0, 0] <= 0 or K[1, 1] <= 0 or np.abs(K[2] - (0, 0, 1)).max() > 1e-6:
        raise DatasetError(
            f"{path}: K is not a camera matrix; its focal lengths must be positive and its last row 0 0 1"
        )
    return Calibration(K, R, T.reshape(3))


def write_calibration(folder: Path, name: str, calibration: Calibration) -> None:
    """Write the calibration of an image into a folder of calibrations."""
    image = PurePosixPath(name)
    path = folder / image.parent / f"calibration_{image.name}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", locking=False) as file:
        for key, value in calibration._asdict().items():
            file.create_dataset(key, data=np.asarray(value, dtype=np.float64))


def read_depth(path: Path) -> Float[np.ndarray, "h w"]:
    """Read a depth map as float32; values that are not finite and positive become 0.

    Raises DatasetError if the file is not a depth map.
    """
    try:
        depth = read_datasets(path, ("depth",))[0].astype(np.float32)
    except ArtifactError as error:
        raise DatasetError(f"{path}: not a depth map ({error})") from error
    if depth.ndim != 2 or depth.size == 0:
        raise DatasetError(f"{path}: the depth map has shape {depth.shape} instead of (height, width)")
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def write_depth(folder: Path, name: str, depth: Float[np.ndarray, "h w"], keep_extension: bool = False) -> None:
    """Write the depth map of an image as float32 into a folder of depth maps.

    keep_extension: write NAME.EXT.h5 instead of the original's NAME.h5, for images that differ only in extension.
    """
    image = PurePosixPath(name)
    path = folder / image.parent / f"{image.name if keep_extension else image.stem}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", locking=False) as file:
        file.create_dataset("depth", data=depth.astype(np.float32), compression="lzf", shuffle=True)


def cut_name(name: str) -> PurePosixPath:
    """The name of an image up to the first dot in its file name."""
    image = PurePosixPath(name)
    return image.parent / image.name.split(".")[0]


def _first_file(folder: Path, files: list[PurePosixPath]) -> Path | None:
    return next((folder / file for file in files if (folder / file).is_file()), None)
