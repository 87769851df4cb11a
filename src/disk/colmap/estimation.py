"""COLMAP's robust estimators, as a cross-check of PoseLib's."""

from __future__ import annotations

import numpy as np
import pycolmap

from disk.geometry.robust import RelativePose
from disk.shapes import Bool, Float


def estimate_relative_pose(
    p0: Float[np.ndarray, "n 2"],
    p1: Float[np.ndarray, "n 2"],
    K0: Float[np.ndarray, "3 3"],
    K1: Float[np.ndarray, "3 3"],
    *,
    threshold: float | int = 1.0,
    confidence: float = 0.9999,
    iterations: int = 10_000,
    seed: int = 0,
) -> RelativePose | None:
    """cam1_from_cam0 by COLMAP's LO-RANSAC, None if it fails; otherwise as `geometry.robust.estimate_relative_pose`.

    Pixels and K may be relative to the centre or the corner of the first pixel, but both to the same.
    """
    if len(p0) < 6:
        return None
    found = pycolmap.estimate_essential_matrix(
        p0.astype(np.float64),
        p1.astype(np.float64),
        _pinhole(K0),
        _pinhole(K1),
        _ransac(threshold, confidence, iterations, seed),
    )
    if found is None or found["num_inliers"] < 6:
        return None
    pose = found["cam2_from_cam1"]
    t = np.array(pose.translation)
    length = np.linalg.norm(t)
    inliers = np.array(found["inlier_mask"], dtype=bool)
    return RelativePose(np.array(pose.rotation.matrix()), t / (length if length > 0 else 1), inliers)


def estimate_homography(
    p0: Float[np.ndarray, "n 2"],
    p1: Float[np.ndarray, "n 2"],
    *,
    threshold: float | int = 3.0,
    confidence: float = 0.9999,
    iterations: int = 10_000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "3 3"], Bool[np.ndarray, " n"]] | None:
    """(H, inliers) with p1 ~ H @ p0, None if it fails; otherwise as `geometry.robust.estimate_homography`."""
    if len(p0) < 4:
        return None
    options = _ransac(threshold, confidence, iterations, seed)
    found = pycolmap.estimate_homography_matrix(p0.astype(np.float64), p1.astype(np.float64), options)
    if found is None or found["num_inliers"] < 4:
        return None
    H = np.array(found["H"])
    if not np.isfinite(H).all() or H[2, 2] == 0:
        return None
    return H / H[2, 2], np.array(found["inlier_mask"], dtype=bool)


def _pinhole(K: Float[np.ndarray, "3 3"]) -> pycolmap.Camera:
    # the estimators do not use the size
    parameters = [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])]
    return pycolmap.Camera(model="PINHOLE", width=1, height=1, params=parameters)


def _ransac(threshold: float | int, confidence: float, iterations: int, seed: int) -> pycolmap.RANSACOptions:
    return pycolmap.RANSACOptions(
        max_error=float(threshold),
        confidence=confidence,
        max_num_trials=iterations,
        min_num_trials=min(iterations, 1000),
        random_seed=seed,
    )
