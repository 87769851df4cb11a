"""Sparse models from a verified database: incremental mapping, or global mapping as in GLOMAP."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pycolmap

from disk.colmap.database import clear_errors
from disk.colmap.georegistration import Georegistration, Placed, georegister
from disk.colmap.priors import LocalMap
from disk.colmap.rigs import Mounted, Rig, map_rig, mounted_cameras
from disk.colmap.schema import keep_readable
from disk.devices import usable_cores
from disk.errors import ColmapError
from disk.geometry.positions import NotFixedError
from disk.images.reading import one_large_at_a_time, read_image
from disk.progress import log, progress_bar, track
from disk.storage.locks import file_lock
from disk.storage.new_file import new_file, sync_folder, write_json

Mapper = Literal["incremental", "global"]
MADE_FROM = ".made-from.json"
_ASIDE = "before"  # in the scratch folder: what is being replaced
_OVERCONFIDENT = 5  # standard deviations; with larger residuals the priors would bend the model


class NoModelError(ColmapError):
    """Mapping produced no model."""


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


def map_images(
    database: Path,
    images: Mapping[str, Path],
    out: Path,
    mapper: Mapper = "incremental",
    seed: int = 0,
    note: Mapping[str, Any] | None = None,
    fix_intrinsics: bool = False,
    rig: Rig | None = None,
    gps: LocalMap | None = None,
) -> list[Model]:
    """Reconstruct and return the models, largest first, in `out/0`, `out/1` and so on; `out` is replaced at the end.

    images: files by their names in the database, for the colours of points
    note: recorded beside the models, for `made_from`
    fix_intrinsics: keep the cameras unchanged
    rig: rig of the images
    gps: positions, which the database has as pose priors. They guide the incremental mapper if there is no rig, and
    models that agree with them are georegistered.

    Raises NoModelError if no two images could be connected, ColmapError if the disk is full or the cameras do not match
    the rig, and ArtifactError if another run holds the database.
    """
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)
    raw = out.with_name(f".{out.name}.tmp") / "raw"

    def run(source: Path, fix_rig: bool = False, guided: bool = False) -> list[pycolmap.Reconstruction]:
        if mapper == "incremental":
            found = _incremental(source, raw, len(images), seed, fix_intrinsics, fix_rig, guided)
        else:
            found = _global(source, raw, len(images), seed, fix_intrinsics, fix_rig)
            if not found:  # it makes no models of only two images
                log.warning("the global mapper found no model; trying the incremental one")
                found = _incremental(source, raw, len(images), seed, fix_intrinsics, fix_rig, guided)
        return sorted(found.values(), key=lambda model: (-model.num_reg_images(), -model.num_points3D()))

    with scratch_beside(out) as scratch:
        raw.mkdir()
        guided = rig is None and gps is not None and gps.guides and mapper == "incremental"
        with file_lock(database), clear_errors(f"cannot use {database}"):
            found = run(database, guided=guided) if rig is None else map_rig(run, database, scratch, rig)
            places = [place_of(model, gps) for model in found]
            if gps is not None and guided and (reason := _misled(places, gps)):
                log.warning("GPS does not guide the mapper: %s; mapping again without", reason)
                found = run(database)
                places = [place_of(model, gps) for model in found]
        keep_readable(database)
        if not found or not found[0].num_points3D():
            raise NoModelError("no two images could be connected into a model")
        return write_models(found, images, out, scratch, note, places)


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


def place_of(model: pycolmap.Reconstruction, gps: LocalMap | None) -> Placed | str | None:
    """Georegister a model; the reason if that is not possible; None without positions."""
    try:
        return georegister(model, gps) if gps is not None else None
    except NotFixedError as reason:
        return str(reason)


def _misled(places: Sequence[Placed | str | None], gps: LocalMap) -> str | None:
    """Why the positions should not have guided the mapper; None if they agree with the model."""
    place = places[0] if places else "it found no model"
    if not isinstance(place, Placed):
        return place
    if place.place.median > _OVERCONFIDENT * gps.error:
        return f"positions are off by {place.place.median:.3g} m, but their tags claim {gps.error:.3g} m"
    return None


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
        write_json(complete / MADE_FROM, dict(note))
    _check_room(scratch)
    if out.exists():
        out.replace(scratch / _ASIDE)
    complete.replace(out)
    sync_folder(out.parent)
    return described


def made_from(out: Path) -> dict[str, Any]:
    """The note of `map_images` beside the models of a folder; empty if it did not write them."""
    try:
        return dict(json.loads((out / MADE_FROM).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


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


def _incremental(
    database: Path, out: Path, images: int, seed: int, fix_intrinsics: bool, fix_rig: bool, guided: bool
) -> dict[int, pycolmap.Reconstruction]:
    options = incremental_options(seed, fix_intrinsics)
    options.use_prior_position = options.use_robust_loss_on_prior_position = guided
    options.ba_refine_sensor_from_rig = not fix_rig
    found = run_incremental(database, out, images, options)
    if not found:
        # where no three images connect, the points that two of them see are all there is
        options.min_model_size = 2
        options.triangulation.ignore_two_view_tracks = False
        found = run_incremental(database, out, images, options)
    return found


def incremental_options(seed: int, fix_intrinsics: bool) -> pycolmap.IncrementalPipelineOptions:
    """pycolmap's options for incremental mapping."""
    options = pycolmap.IncrementalPipelineOptions()
    if fix_intrinsics:
        options.ba_refine_focal_length = options.ba_refine_extra_params = False
        options.mapper.abs_pose_refine_focal_length = options.mapper.abs_pose_refine_extra_params = False
    options.random_seed = seed
    options.min_model_size = 3
    options.extract_colors = False
    options.ignore_watermarks = True
    return options


def run_incremental(
    database: Path,
    out: Path,
    images: int,
    options: pycolmap.IncrementalPipelineOptions,
    model: Path | str = "",
) -> dict[int, pycolmap.Reconstruction]:
    """Map a database incrementally, with a progress bar.

    model: folder of a model to continue
    """
    with progress_bar("map", "image", total=images) as bar:

        def registered() -> None:
            bar.update(1)

        return pycolmap.incremental_mapping(
            database,
            out,
            out,
            options,
            model,
            initial_image_pair_callback=registered,
            next_image_callback=registered,
        )


def _global(
    database: Path, out: Path, images: int, seed: int, fix_intrinsics: bool, fix_rig: bool
) -> dict[int, pycolmap.Reconstruction]:
    # global mapping needs calibration from fundamental matrices, which changes the database: work on a copy
    copy = out / "calibrated.db"
    shutil.copyfile(database, copy)
    options = pycolmap.GlobalPipelineOptions()
    options.mapper.refine_sensor_from_rig = options.mapper.bundle_adjustment.refine_sensor_from_rig = not fix_rig
    if fix_intrinsics:
        adjustment = options.mapper.bundle_adjustment
        adjustment.refine_focal_length = adjustment.refine_extra_params = False
    else:
        pycolmap.calibrate_view_graph(copy)
    options.random_seed = seed
    options.ignore_watermarks = True
    return pycolmap.global_mapping(copy, out, out, options)


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
