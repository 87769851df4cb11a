"""A model for display: its images with poses and cameras, and the points they share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from disk.colmap.models import Model, describe
from disk.colmap.workspace import open_model
from disk.geometry.camera import Camera
from disk.geometry.covisibility import shared_points
from disk.shapes import Float, Int, UInt8


@dataclass(frozen=True, eq=False)
class PosedView:
    """A registered image.

    size: (width, height) in pixels
    centre: position of the camera
    camera: pinhole camera, without distortion; None for spherical cameras
    """

    name: str
    size: tuple[int, int]
    centre: Float[np.ndarray, " 3"]
    camera: Camera | None


@dataclass(frozen=True, eq=False)
class Overview:
    """A model for display.

    numbers: of the reconstruction
    views: registered images, sorted by name
    shared: number of points that both of two views see, for each pair of views
    points, colours: of the 3D points, in the order of their ids
    """

    numbers: Model
    views: list[PosedView]
    shared: Int[np.ndarray, "n n"]
    points: Float[np.ndarray, "m 3"]
    colours: UInt8[np.ndarray, "m 3"]


def read_overview(folder: Path) -> Overview:
    """Read a model folder, binary or text; ColmapError if it cannot be read."""
    model = open_model(folder)
    images = sorted((model.image(image_id) for image_id in model.reg_image_ids()), key=lambda image: image.name)
    views, seen = [], []
    for image in images:
        camera, pose = model.camera(image.camera_id), image.cam_from_world()
        pinhole = None
        if camera.focal_length_idxs():
            K = camera.calibration_matrix().copy()
            K[:2, 2] -= 0.5
            pinhole = Camera(*map(torch.from_numpy, (K, pose.rotation.matrix().copy(), pose.translation.copy())))
        centre = np.asarray(image.projection_center())
        views.append(PosedView(image.name, (camera.width, camera.height), centre, pinhole))
        seen.append(np.unique([point.point3D_id for point in image.get_observation_points2D()]).astype(np.int64))
    points = sorted(model.points3D.items())
    xyz = np.array([point.xyz for _, point in points]).reshape(-1, 3)
    colours = np.array([point.color for _, point in points], np.uint8).reshape(-1, 3)
    return Overview(describe(model), views, shared_points(seen), xyz, colours)
