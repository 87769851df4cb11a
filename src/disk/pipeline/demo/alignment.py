"""Aligning estimated cameras to the true ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from disk.geometry.camera import Camera
from disk.geometry.pose import align_similarity, rotation_error
from disk.pipeline.demo.scene import DISTANCE
from disk.shapes import Float, Tensor

Pose = tuple[np.ndarray, np.ndarray]  # R (3, 3) and t (3,) of x_cam = R x_world + t


@dataclass(frozen=True)
class Alignment:
    """The similarity from a model to the true world, and the remaining errors.

    rotation: angle between estimated and true orientation, in degrees, by image
    position: distance between estimated and true centre, in percent of the distance from the cameras to the scene
    scale, R, t: the similarity
    """

    rotation: dict[str, float]
    position: dict[str, float]
    scale: float
    R: Float[np.ndarray, "3 3"]
    t: Float[np.ndarray, " 3"]


def align(estimated: Mapping[str, Pose], truth: Mapping[str, Pose]) -> Alignment | None:
    """Align estimated to true poses by the similarity between their centres, and measure the errors.

    Returns None if the centres do not determine a similarity: fewer than three, or all in one place.
    """
    names = sorted(estimated)
    centres = np.array([-R.T @ t for R, t in (estimated[name] for name in names)]).reshape(-1, 3)
    true_centres = np.array([-R.T @ t for R, t in (truth[name] for name in names)]).reshape(-1, 3)
    try:
        scale, R, t = align_similarity(centres, true_centres)
    except ValueError:
        return None
    apart = np.linalg.norm(scale * centres @ R.T + t - true_centres, axis=1)
    rotation = {name: rotation_error(estimated[name][0] @ R.T, truth[name][0]) for name in names}
    position = {name: 100 * float(value) / DISTANCE for name, value in zip(names, apart, strict=True)}
    return Alignment(rotation, position, scale, R, t)


def aligned_camera(pose: Pose, K: Float[Tensor, "3 3"], alignment: Alignment) -> Camera:
    """Transform an estimated camera to the true world: x_true = s R x + t, so its rotation is R_cam R^T."""
    R = pose[0] @ alignment.R.T
    centre = alignment.scale * alignment.R @ (-pose[0].T @ pose[1]) + alignment.t
    return Camera(K, torch.from_numpy(R), torch.from_numpy(-R @ centre))
