"""Models on disk: written whole or not at all, with the colours of their points, and their numbers."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from disk.colmap.georegistration import Georegistration, Placed
from disk.colmap.rigs import Mounted, mounted_cameras
from disk.devices import usable_cores
from disk.errors import ColmapError
from disk.images.reading import one_large_at_a_time, read_image
from disk.progress import track
from disk.storage.made_from import note_made_from
from disk.storage.new_file import new_file, sync_folder

_ASIDE = "before"  # in the scratch folder: what is being replaced


@dataclass(frozen=True)
class CameraFound:
    """A camera of a model: COLMAP's camera model, focal length in pixels, number of images, name of the first."""

    model: str
    focal_length: float | None
    images: int
    first: str


@dataclass(frozen=True)
class Model:
    """The numbers of a reconstruction.

    images: names of the registered images, as in the database
    points: number of 3D points
    track_length: mean number of images that see a point
    reprojection_error: mean, in pixels
    cameras: the cameras in use
    observations: number of points that each image sees, by name
    rig: poses of the cameras of a rig, by folder
    georegistration: position on earth by GPS
    gps_unused: why there is none, although photos have positions
    """

    images: list[str]
    points: int
    track_length: float
    reprojection_error: float
    cameras: list[CameraFound]
    observations: dict[str, int]
    rig: dict[str, Mounted] = field(default_factory=dict)
    georegistration: Georegistration | None = None
    gps_unused: str | None = None


@contextlib.contextmanager
def scratch_beside(out: Path) -> Iterator[Path]:
    """An empty temporary folder beside `out`, deleted at the end."""
    put_back(out)
    scratch = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        put_back(out)
        shutil.rmtree(scratch, ignore_errors=True)


def put_back(out: Path) -> None:
    """Restore the models that a killed run was about to replace."""
    aside = out.with_name(f".{out.name}.tmp") / _ASIDE
    if aside.is_dir() and not out.exists():
        aside.replace(out)


def write_models(
    models: Sequence[pycolmap.Reconstruction],
    images: Mapping[str, Path],
    out: Path,
    scratch: Path,
    note: Mapping[str, Any] | None = None,
    places: Sequence[Placed | str | None] | None = None,
) -> list[Model]:
    """Colour models and write them as `out/0`, `out/1` and so on, all or none.

    scratch: a folder beside `out`
    places: the georegistration of each model, or why it has none
    images, note: as for `map_images`

    Raises the errors of `map_images`.
    """
    complete = scratch / "sorted"
    described = []
    for number, (model, place) in enumerate(zip(models, places or [None] * len(models), strict=True)):
        _colour(model, images)
        folder = complete / str(number)
        folder.mkdir(parents=True)
        model.write(folder)
        if isinstance(place, Placed):
            place.write(folder)
        described.append(describe(model, place))
    if note is not None:
        note_made_from(complete, note)
    _check_room(scratch)
    if out.exists():
        out.replace(scratch / _ASIDE)
    complete.replace(out)
    sync_folder(out.parent)
    return described


def write_ply(model: Path, path: Path) -> None:
    """Write the coloured points of a model folder as a PLY file; ColmapError if the disk is full."""
    with new_file(path) as temporary:
        pycolmap.Reconstruction(model).export_PLY(temporary)
        _check_room(path.parent)


def _check_room(folder: Path) -> None:
    # pycolmap does not notice a full disk, so try to write one more megabyte
    probe = folder / ".probe"
    try:
        with probe.open("wb") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ColmapError(
            f"cannot write in {folder}: {error.strerror}; make room and run the same command again"
        ) from error
    finally:
        probe.unlink(missing_ok=True)


def _colour(model: pycolmap.Reconstruction, images: Mapping[str, Path]) -> None:
    """Give each point the mean colour of its observations; also reads files that COLMAP cannot decode."""

    def sample(image: pycolmap.Image) -> tuple[np.ndarray, np.ndarray]:
        seen = image.get_observation_points2D()
        # in COLMAP a pixel spans [column, column + 1)
        columns, rows = np.floor([point.xy for point in seen]).astype(int).T
        with one_large_at_a_time(images[image.name]):
            pixels = read_image(images[image.name])
            height, width = pixels.shape[:2]
            colours = pixels[rows.clip(0, height - 1), columns.clip(0, width - 1)]
            del pixels
        return np.array([point.point3D_id for point in seen]), colours

    registered = [model.image(image_id) for image_id in sorted(model.reg_image_ids())]
    registered = [image for image in registered if image.num_points3D]
    with ThreadPoolExecutor(usable_cores()) as pool:
        sampled = list(track(pool.map(sample, registered), "colour points", "image", len(registered)))
    if not sampled:
        return
    points, owner = np.unique(np.concatenate([ids for ids, _ in sampled]), return_inverse=True)
    total = np.zeros((len(points), 3))
    np.add.at(total, owner, np.concatenate([colours for _, colours in sampled]))
    mean = np.rint(total / np.bincount(owner)[:, None]).astype(np.uint8)
    for point, colour in zip(points.tolist(), mean, strict=True):
        model.point3D(point).color = colour


def describe(model: pycolmap.Reconstruction, place: Placed | str | None = None) -> Model:
    """The numbers of a model.

    place: its georegistration, or why it has none
    """
    images = sorted((model.image(image_id) for image_id in model.reg_image_ids()), key=lambda image: image.name)
    names: dict[int, list[str]] = {}
    for image in images:
        names.setdefault(image.camera_id, []).append(image.name)
    cameras = [
        CameraFound(camera.model_name, _focal_length(camera), len(names[camera_id]), names[camera_id][0])
        for camera_id, camera in sorted(model.cameras.items())
        if camera_id in names
    ]
    return Model(
        [image.name for image in images],
        model.num_points3D(),
        model.compute_mean_track_length(),
        model.compute_mean_reprojection_error(),
        cameras,
        {image.name: image.num_points3D for image in images},
        mounted_cameras(model),
        place.place if isinstance(place, Placed) else None,
        place if isinstance(place, str) else None,
    )


def _focal_length(camera: pycolmap.Camera) -> float | None:
    return round(camera.mean_focal_length(), 2) if camera.focal_length_idxs() else None  # a spherical camera has none
