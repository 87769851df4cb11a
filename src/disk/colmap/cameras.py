"""Cameras: known ones, and initial guesses from EXIF, as COLMAP makes them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pycolmap

from disk.errors import ColmapError
from disk.images.reading import exif_directory, image_size
from disk.storage.names import did_you_mean

DEFAULT_FOCAL_FACTOR = 1.2  # COLMAP's guess if EXIF has no focal length: 1.2 times the longer side
_DIAGONAL_35MM = 43.27  # millimetres, of a 36 x 24 mm frame, rounded as in COLMAP
_EXIF_IFD, _FOCAL_LENGTH, _FOCAL_LENGTH_35MM = 0x8769, 0x920A, 0xA405
_COLMAP_READS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".ppm", ".pgm")


@dataclass(frozen=True)
class KnownCamera:
    """A camera in COLMAP's terms; the principal point is relative to the corner of the first pixel.

    model: COLMAP's name of the camera model
    width, height: in pixels
    params: in COLMAP's order
    """

    model: str
    width: int
    height: int
    params: tuple[float, ...]

    @property
    def focal_length(self) -> float | None:
        """Focal length in pixels, the mean of both axes; None for a spherical camera."""
        camera = to_colmap(self)
        return float(camera.mean_focal_length()) if camera.focal_length_idxs() else None


def to_colmap(camera: KnownCamera) -> pycolmap.Camera:
    """Convert to a pycolmap camera."""
    return pycolmap.Camera(
        model=camera.model, width=camera.width, height=camera.height, params=[float(value) for value in camera.params]
    )


def from_colmap(camera: pycolmap.Camera) -> KnownCamera:
    """Convert from a pycolmap camera."""
    return KnownCamera(camera.model_name, camera.width, camera.height, tuple(float(value) for value in camera.params))


def simple_camera(width: int, height: int, focal_length: float | int) -> KnownCamera:
    """A camera with this focal length in pixels, its principal point in the middle, and no distortion."""
    return KnownCamera("SIMPLE_RADIAL", width, height, (float(focal_length), width / 2, height / 2, 0.0))


def camera_model(name: str) -> str:
    """COLMAP's name of a camera model; also accepts the original's spelling, simple-radial for SIMPLE_RADIAL.

    Raises ColmapError for a model that COLMAP does not have.
    """
    models = [model for model in pycolmap.CameraModelId.__members__ if model != "INVALID"]
    wanted = name.upper().replace("-", "_")
    if wanted not in models:
        choices = [model.lower().replace("_", "-") for model in models]
        hint = did_you_mean(name.lower(), choices)
        raise ColmapError(f"no camera model {name!r}; choose from {', '.join(choices)}{hint}")
    return wanted


def parameters_of(model: str) -> int:
    """The number of parameters of a camera model, named as by `camera_model`."""
    return len(pycolmap.Camera.create_from_model_name(0, model, 1.0, 1, 1).params)


def read_cameras(path: Path, names: Sequence[str]) -> dict[str, KnownCamera]:
    """The cameras of images by name, from a COLMAP model or from a file with a single camera for all images.

    path: folder of a model, or cameras.txt or .bin; with images.* beside it, the file counts as part of a model
    names: of the images that share the camera of a file with a single one

    Raises ColmapError if it cannot be read, or does not tell which camera belongs to which image.
    """
    from disk.colmap.workspace import find_model, open_model  # circular import

    folder = path if path.is_dir() else path.parent
    if path.is_dir() or (folder / f"images{path.suffix}").is_file():
        model = open_model(find_model(folder))
        named = {image.name: from_colmap(model.camera(image.camera_id)) for image in model.images.values()}
        if any(name in named for name in names) or len(model.cameras) != 1:
            return named
    else:
        model = _cameras_alone(path)
    if len(model.cameras) != 1:
        raise ColmapError(
            f"{path} has {len(model.cameras)} cameras but no images that tell which is whose; give the model's folder"
        )
    return dict.fromkeys(names, from_colmap(next(iter(model.cameras.values()))))


def _cameras_alone(path: Path) -> pycolmap.Reconstruction:
    """A model with only the cameras of a file."""
    if path.suffix not in (".txt", ".bin"):
        raise ColmapError(f"{path} is neither a cameras.txt nor a cameras.bin of COLMAP")
    with TemporaryDirectory() as folder:
        shutil.copyfile(path, Path(folder) / f"cameras{path.suffix}")
        for other in ("images", "points3D"):
            empty = bytes(8) if path.suffix == ".bin" else b""  # a count of 0
            (Path(folder) / f"{other}{path.suffix}").write_bytes(empty)
        try:
            return pycolmap.Reconstruction(folder)
        except (ValueError, RuntimeError, LookupError, OSError) as error:
            raise ColmapError(f"{path} cannot be read as cameras of COLMAP") from error


def guess_camera(path: Path, model: str) -> pycolmap.Camera:
    """Guess the camera of an image file: focal length from EXIF, else 1.2 times the longer side; no distortion.

    model: camera model, as returned by `camera_model`

    Raises ImageError for a file that is not an image.
    """
    width, height = image_size(path)
    focal = _exif_focal(path, width, height)
    guess = focal or DEFAULT_FOCAL_FACTOR * max(width, height)
    camera = pycolmap.Camera.create_from_model_name(0, model, guess, width, height)
    camera.has_prior_focal_length = focal is not None
    return camera


def _exif_focal(path: Path, width: int, height: int) -> float | None:
    """Focal length in pixels from EXIF; None if it has none.

    From the 35 mm equivalent, which is relative to the diagonal; else from the focal length and the width of the
    sensor, by COLMAP's table of cameras. COLMAP is the second choice because it decodes the image.
    """
    tags = exif_directory(path, _EXIF_IFD)
    try:
        equivalent, measured = (float(tags.get(tag, 0)) for tag in (_FOCAL_LENGTH_35MM, _FOCAL_LENGTH))
    except (TypeError, ValueError, ZeroDivisionError):
        return None  # EXIF may hold anything; COLMAP ignores nonsense as well
    if equivalent > 0:
        return equivalent / _DIAGONAL_35MM * (width**2 + height**2) ** 0.5
    if measured > 0 and path.suffix.lower() in _COLMAP_READS:
        try:
            camera = pycolmap.infer_camera_from_image(path)
        except ValueError:
            return None  # COLMAP cannot decode the file
        if camera.has_prior_focal_length:
            return camera.mean_focal_length()
    return None
