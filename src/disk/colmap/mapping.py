"""Sparse models from a verified database: incremental mapping, or global mapping as in GLOMAP."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pycolmap

from disk.colmap.database import clear_errors
from disk.colmap.georegistration import Placed, georegister
from disk.colmap.models import Model, scratch_beside, write_models
from disk.colmap.priors import LocalMap
from disk.colmap.rigs import Rig, map_rig
from disk.colmap.schema import keep_readable
from disk.errors import ColmapError
from disk.geometry.positions import NotFixedError
from disk.progress import log, progress_bar
from disk.storage.locks import file_lock

Mapper = Literal["incremental", "global"]
_RELAXATIONS = 4  # of the thresholds for the initial pair, as in COLMAP
_OVERCONFIDENT = 5  # standard deviations; with larger residuals the priors would bend the model


class NoModelError(ColmapError):
    """Mapping produced no model."""


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
    note: recorded beside the models, for `storage.made_from`
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
            found = _incremental(source, len(images), seed, fix_intrinsics, fix_rig, guided)
        else:
            found = _global(source, raw, len(images), seed, fix_intrinsics, fix_rig)
            if not found:  # it makes no models of only two images
                log.warning("the global mapper found no model; trying the incremental one")
                found = _incremental(source, len(images), seed, fix_intrinsics, fix_rig, guided)
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


def _incremental(
    database: Path, images: int, seed: int, fix_intrinsics: bool, fix_rig: bool, guided: bool
) -> dict[int, pycolmap.Reconstruction]:
    options = incremental_options(seed, fix_intrinsics)
    options.use_prior_position = options.use_robust_loss_on_prior_position = guided
    options.ba_refine_sensor_from_rig = not fix_rig
    found = run_incremental(database, images, options)
    if not found:
        # where no three images connect, the points that two of them see are all there is
        options.min_model_size = 2
        options.triangulation.ignore_two_view_tracks = False
        found = run_incremental(database, images, options)
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
    database: Path, images: int, options: pycolmap.IncrementalPipelineOptions, model: Path | None = None
) -> dict[int, pycolmap.Reconstruction]:
    """Map a database incrementally, with a progress bar.

    As `pycolmap.incremental_mapping`, but one thread searches for the initial pair. Of several threads, the first to
    find a pair ends the search, so that pair and model depend on the load of the machine.
    model: folder of a model to continue
    """
    found = pycolmap.ReconstructionManager()
    if model is not None:
        found.read(model)
    with pycolmap.Database.open(database) as opened:
        pipeline = pycolmap.IncrementalPipeline(options, opened, found)
    cache, initial = pipeline.database_cache, options.get_mapper()
    if not cache.num_images() or (options.use_prior_position and not cache.num_pose_priors()):
        return {}
    initial.num_threads = 1  # not of bundle adjustment
    mapper = pycolmap.IncrementalMapper(cache)
    with progress_bar("map", "image", total=images) as bar:
        for event in ("INITIAL_IMAGE_PAIR_REG_CALLBACK", "NEXT_IMAGE_REG_CALLBACK"):
            pipeline.add_callback(int(getattr(pycolmap.IncrementalPipelineCallback, event)), lambda: bar.update(1))
        status = pipeline.reconstruct(mapper, initial, model is not None)
        for step in range(_RELAXATIONS):
            if status == pycolmap.IncrementalPipelineStatus.STOP or mapper.num_total_reg_images() == cache.num_images():
                break
            if step % 2:
                initial.init_min_tri_angle /= 2
            else:
                initial.init_min_num_inliers //= 2
            mapper.reset_initialization_stats()
            status = pipeline.reconstruct(mapper, initial, False)
    return {number: found.get(number) for number in range(found.size())}


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
