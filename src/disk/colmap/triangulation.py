"""Triangulation with known poses, and epipolar errors of matches under these poses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from disk.colmap.cameras import KnownCamera, from_colmap, to_colmap
from disk.colmap.database import clear_errors, open_database
from disk.colmap.mapping import NoModelError
from disk.colmap.models import Model, scratch_beside, write_models
from disk.colmap.schema import keep_readable
from disk.colmap.workspace import open_model
from disk.shapes import Float
from disk.storage.locks import file_lock

_STILL = 1e-9  # shorter baselines have no epipolar lines


@dataclass(frozen=True, eq=False)
class KnownPose:
    """A camera and its pose, x_cam = R x_world + t."""

    camera: KnownCamera
    R: Float[np.ndarray, "3 3"]
    t: Float[np.ndarray, " 3"]


def read_known_poses(folder: Path) -> dict[str, KnownPose]:
    """The poses of a COLMAP model by image name; ColmapError if it cannot be read."""
    model = open_model(folder)
    poses = {}
    for image_id in model.reg_image_ids():
        image = model.image(image_id)
        pose = image.cam_from_world()
        camera = from_colmap(model.camera(image.camera_id))
        poses[image.name] = KnownPose(camera, pose.rotation.matrix(), pose.translation)
    return poses


def triangulate(
    database: Path,
    poses: Mapping[str, KnownPose],
    images: Mapping[str, Path],
    out: Path,
    seed: int = 0,
    note: Mapping[str, Any] | None = None,
) -> Model:
    """Triangulate a verified database with fixed poses and write `out/0`; `out` is replaced at the end.

    poses, images: by the names in the database
    note: as for `map_images`

    Raises NoModelError if no point can be triangulated, and the other errors of `map_images`.
    """
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed = seed
    options.extract_colors = False
    options.ignore_watermarks = True
    if len(poses) == 2:
        options.triangulation.ignore_two_view_tracks = False
    with scratch_beside(out) as scratch:
        raw = scratch / "raw"
        raw.mkdir()
        with open_database(database) as opened:
            posed = _posed(opened, poses)
        with file_lock(database), clear_errors(f"cannot use {database}"):
            found = pycolmap.triangulate_points(posed, database, scratch, raw, True, options, False)
        keep_readable(database)
        if not found.num_points3D():
            raise NoModelError("no point could be triangulated")
        return write_models([found], images, out, scratch, note)[0]


def _posed(database: pycolmap.Database, poses: Mapping[str, KnownPose]) -> pycolmap.Reconstruction:
    """A model without points: the images of a database, with their poses."""
    model = pycolmap.Reconstruction()
    for camera in database.read_all_cameras():
        model.add_camera(camera)
    for rig in database.read_all_rigs():
        model.add_rig(rig)
    for frame in database.read_all_frames():
        model.add_frame(frame)
    for image in database.read_all_images():
        model.add_image(image)
        known = poses[image.name]
        frame = model.frame(image.frame_id)
        frame.set_cam_from_world(image.camera_id, pycolmap.Rigid3d(pycolmap.Rotation3d(known.R), known.t))
        model.register_frame(image.frame_id)
    return model


def epipolar_errors(
    first: KnownPose, second: KnownPose, p0: Float[np.ndarray, "n 2"], p1: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, " n"]:
    """Distance of each matched point to the epipolar line of the other, in pixels; the larger of both directions.

    NaN if both cameras are in the same place.
    p0, p1: in pixels, relative to the corner of the first pixel
    """
    R = second.R @ first.R.T
    t = second.t - R @ first.t
    if np.linalg.norm(t) < _STILL:
        return np.full(len(p0), np.nan)
    E = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]]) @ R
    rays0, rays1 = _rays(first, p0), _rays(second, p1)
    product = np.abs((rays1 * (rays0 @ E.T)).sum(1))
    errors = []
    for known, lines in ((second, rays0 @ E.T), (first, rays1 @ E)):
        across = np.linalg.norm(lines[:, :2], axis=1).clip(min=np.finfo(float).tiny)
        errors.append(product / across * (known.camera.focal_length or 1.0))
    return np.maximum(*errors)


def _rays(known: KnownPose, points: np.ndarray) -> Float[np.ndarray, "n 3"]:
    rays = to_colmap(known.camera).cam_from_img(points.astype(np.float64))
    return np.column_stack([np.asarray(rays, np.float64).reshape(-1, 2), np.ones(len(points))])
