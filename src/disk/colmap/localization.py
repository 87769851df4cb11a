"""Localization: the absolute pose of an image from matches with the points of a model, by COLMAP's LO-RANSAC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap

from disk.colmap.cameras import KnownCamera, from_colmap, to_colmap
from disk.colmap.database import COLMAP_SHIFT
from disk.colmap.workspace import open_model
from disk.shapes import Bool, Float, Int, UInt8

Focal = Literal["known", "guess", "unknown"]
SAMPLE = {"known": 3, "guess": 3, "unknown": 4}  # matches in a minimal sample (P3P, P4Pf)
SOLUTIONS = {"known": 4, "guess": 4, "unknown": 10}  # maximum number of poses from a minimal sample
_TRIALS = 10_000
_PLAUSIBLE = (0.1, 10.0, 1.0)  # min and max focal length over the longer side, max distortion, as in COLMAP's mapper
_MAD = 1.4826  # standard deviation over median absolute deviation of a normal distribution


@dataclass(frozen=True, eq=False)
class ModelImage:
    """An image of a model.

    keypoints: in pixels; (0, 0) is the centre of the first pixel
    points: row of the 3D point of each keypoint in `PosedModel.xyz`, -1 for none
    """

    camera: KnownCamera
    keypoints: Float[np.ndarray, "n 2"]
    points: Int[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class PosedModel:
    """The registered images of a model by name, and its 3D points, which `ModelImage.points` indexes.

    ids: COLMAP's ids of the points
    colours: RGB
    """

    images: dict[str, ModelImage]
    xyz: Float[np.ndarray, "m 3"]
    ids: Int[np.ndarray, " m"]
    colours: UInt8[np.ndarray, "m 3"]


@dataclass(frozen=True, eq=False)
class AbsolutePose:
    """x_cam = R x_world + t, and its uncertainty.

    camera: with the estimated focal length and distortion where they were not known
    inliers: mask of the matches that agree with the pose
    error: median reprojection error of the inliers, in pixels
    position_sigma: standard deviation of the position due to keypoint noise, in units of the model; the root of the
    summed variances of three axes
    rotation_sigma: the same for the orientation, in degrees
    """

    R: Float[np.ndarray, "3 3"]
    t: Float[np.ndarray, " 3"]
    camera: KnownCamera
    inliers: Bool[np.ndarray, " n"]
    error: float
    position_sigma: float
    rotation_sigma: float

    @property
    def centre(self) -> Float[np.ndarray, " 3"]:
        """The camera's position in the world."""
        return -self.R.T @ self.t

    @property
    def quaternion(self) -> list[float]:
        """The rotation as a quaternion w, x, y, z, as in COLMAP's files."""
        x, y, z, w = pycolmap.Rotation3d(self.R).quat.tolist()
        return [w, x, y, z]


@dataclass(frozen=True, eq=False)
class LocalizedImage:
    """A localized image.

    rotation, translation: of x_cam = R x_world + t; the rotation as a quaternion w, x, y, z
    keypoints, points: the inliers, as in ModelImage
    """

    rotation: Sequence[float]
    translation: Sequence[float]
    camera: KnownCamera
    keypoints: Float[np.ndarray, "k 2"]
    points: Int[np.ndarray, " k"]


def read_posed_model(folder: Path) -> PosedModel:
    """Read a model folder, binary or text; ColmapError if it cannot be read."""
    model = open_model(folder)
    ids = np.array(sorted(model.points3D), np.int64)
    xyz = np.array([model.points3D[number].xyz for number in ids]).reshape(-1, 3)
    colours = np.array([model.points3D[number].color for number in ids], np.uint8).reshape(-1, 3)
    images = {}
    for image_id in model.reg_image_ids():
        image = model.image(image_id)
        seen = list(image.points2D)
        points = np.full(len(seen), -1, np.int64)
        has = [number for number, point in enumerate(seen) if point.has_point3D()]
        points[has] = np.searchsorted(ids, [seen[number].point3D_id for number in has])
        keypoints = np.array([point.xy for point in seen], np.float32).reshape(-1, 2) - COLMAP_SHIFT
        images[image.name] = ModelImage(from_colmap(model.camera(image.camera_id)), keypoints, points)
    return PosedModel(dict(sorted(images.items())), xyz, ids, colours)


def estimate_absolute_pose(
    keypoints: Float[np.ndarray, "n 2"],
    xyz: Float[np.ndarray, "n 3"],
    camera: KnownCamera,
    focal: Focal = "known",
    *,
    max_error: float | int,
    seed: int = 0,
) -> AbsolutePose | None:
    """Estimate the pose from which world points are seen at keypoints (row by row); None if it fails.

    keypoints: in pixels; (0, 0) is the centre of the first pixel
    focal: known: keep the camera; guess: refine it with the pose; unknown: estimate its focal length from scratch
    max_error: maximum reprojection error of an inlier, in pixels
    """
    if len(keypoints) <= SAMPLE[focal]:
        return None
    found = to_colmap(camera)
    estimation = pycolmap.AbsolutePoseEstimationOptions(estimate_focal_length=focal == "unknown")
    estimation.ransac.max_error = float(max_error)
    estimation.ransac.random_seed = seed
    estimation.ransac.max_num_trials = _TRIALS
    refinement = pycolmap.AbsolutePoseRefinementOptions(
        refine_focal_length=focal != "known", refine_extra_params=focal != "known"
    )
    points = keypoints.astype(np.float64) + float(COLMAP_SHIFT)
    estimate = pycolmap.estimate_and_refine_absolute_pose(points, xyz.astype(np.float64), found, estimation, refinement)
    if estimate is None or (focal != "known" and found.has_bogus_params(*_PLAUSIBLE)):
        return None
    pose = estimate["cam_from_world"]
    inliers = _agreeing(pose, found, points, xyz, max_error)
    if inliers.sum() <= SAMPLE[focal]:
        return None
    residuals = points[inliers] - found.img_from_cam(pose * xyz[inliers], check_cheirality=False)
    refinement.max_num_iterations = 0
    refinement.loss_function_scale = 1e6  # no robust loss in effect: all inliers have full weight
    measured = pycolmap.refine_absolute_pose(pose, points, xyz, inliers, found, refinement, True)
    covariance = None if measured is None else measured.get("covariance")
    R, t = np.array(pose.rotation.matrix()), np.array(pose.translation)
    position, rotation = np.inf, np.inf
    if covariance is not None and np.isfinite(covariance).all():
        noise = _MAD * float(np.median(np.abs(residuals)))
        position, rotation = _sigmas(R, t, np.asarray(covariance)[:6, :6] * noise**2)
    error = float(np.median(np.linalg.norm(residuals, axis=1)))
    return AbsolutePose(R, t, from_colmap(found), inliers, error, position, rotation)


def write_localized(folder: Path, images: Mapping[str, LocalizedImage], model: PosedModel) -> None:
    """Write localized images as a COLMAP model, with the points they see under the ids of the original model."""
    written = pycolmap.Reconstruction()
    tracks: dict[int, pycolmap.Track] = {}
    for image_id, (name, located) in enumerate(sorted(images.items()), 1):
        camera = to_colmap(located.camera)
        camera.camera_id = image_id
        written.add_camera_with_trivial_rig(camera)
        w, x, y, z = located.rotation
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([x, y, z, w])), np.array(located.translation))
        keypoints = located.keypoints.astype(np.float64) + float(COLMAP_SHIFT)
        image = pycolmap.Image(name=name, camera_id=image_id, image_id=image_id, keypoints=keypoints)
        written.add_image_with_trivial_frame(image, pose)
        for row, point in enumerate(located.points.tolist()):
            tracks.setdefault(point, pycolmap.Track()).add_element(image_id, row)
    for point, track in sorted(tracks.items()):
        entry = pycolmap.Point3D(xyz=model.xyz[point], color=model.colours[point], track=track)
        written.add_point3D_with_id(int(model.ids[point]), entry)
    folder.mkdir(parents=True, exist_ok=True)
    written.write(folder)


def _agreeing(
    pose: pycolmap.Rigid3d, camera: pycolmap.Camera, points: np.ndarray, xyz: np.ndarray, max_error: float
) -> Bool[np.ndarray, " n"]:
    """Mask of the points in front of the camera with a reprojection error of at most max_error."""
    in_camera = pose * xyz
    away = np.linalg.norm(camera.img_from_cam(in_camera, check_cheirality=False) - points, axis=1)
    return (in_camera[:, 2] > 0) & (away <= max_error)


def _sigmas(R: np.ndarray, t: np.ndarray, covariance: Float[np.ndarray, "6 6"]) -> tuple[float, float]:
    """Standard deviations of position and rotation (degrees) from the covariance of COLMAP's rotation and translation.

    COLMAP's rotation parameter is a half angle w, R' = exp(2 [w]x) R, so the centre -R^T t moves by
    -R^T (2 [t]x w + dt).
    """
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    to_centre = -R.T @ np.concatenate([2 * cross, np.eye(3)], axis=1)
    position = np.trace(to_centre @ covariance @ to_centre.T)
    return float(np.sqrt(position)), float(np.degrees(2 * np.sqrt(np.trace(covariance[:3, :3]))))
