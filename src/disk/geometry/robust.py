"""Robust estimation of two-view geometry with PoseLib (LO-RANSAC with non-linear refinement).

The same points, options and seed give the same result: only the sampling is random, and it is seeded. The estimators
raise MissingExtraError without PoseLib.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from disk.errors import require
from disk.shapes import Bool, Float


@dataclass(frozen=True)
class RelativePose:
    """cam2_from_cam1: x_cam2 = R @ x_cam1 + t with |t| = 1, and which matches are inliers."""

    R: Float[np.ndarray, "3 3"]
    t: Float[np.ndarray, " 3"]
    inliers: Bool[np.ndarray, " n"]


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
    """Estimate the calibrated relative pose from matched pixels; None if it fails.

    The five-point method needs 5 matches. A pose with no inliers beyond its own 5 is chance, so fewer than 6 inliers
    also give None.
    p0, p1: pixels; row i of p0 matches row i of p1.
    threshold: maximum Sampson error of an inlier in pixels.
    """
    require("poselib")
    import poselib

    if len(p0) < 6:
        return None
    pose, info = poselib.estimate_relative_pose(
        p0.astype(np.float64),
        p1.astype(np.float64),
        _pinhole(K0),
        _pinhole(K1),
        _ransac("max_epipolar_error", threshold, confidence, iterations, seed),
        {},
    )
    inliers = np.asarray(info["inliers"], dtype=bool)
    if inliers.sum() < 6 or not np.isfinite(pose.R).all() or not np.isfinite(pose.t).all():
        return None
    length = np.linalg.norm(pose.t)
    return RelativePose(np.array(pose.R), np.array(pose.t) / (length if length > 0 else 1), inliers)


def estimate_homography(
    p0: Float[np.ndarray, "n 2"],
    p1: Float[np.ndarray, "n 2"],
    *,
    threshold: float | int = 3.0,
    confidence: float = 0.9999,
    iterations: int = 10_000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "3 3"], Bool[np.ndarray, " n"]] | None:
    """Estimate a homography: (H, inliers) with p1 ~ H @ p0 and H[2, 2] = 1; None if it fails.

    threshold: maximum error of an inlier in pixels.
    """
    require("poselib")
    import poselib

    if len(p0) < 4:
        return None
    options = _ransac("max_reproj_error", threshold, confidence, iterations, seed)
    H, info = poselib.estimate_homography(p0.astype(np.float64), p1.astype(np.float64), options, {})
    inliers = np.asarray(info["inliers"], dtype=bool)
    H = np.array(H)
    if inliers.sum() < 4 or not np.isfinite(H).all() or H[2, 2] == 0:
        return None
    return H / H[2, 2], inliers


def estimate_fundamental(
    p0: Float[np.ndarray, "n 2"],
    p1: Float[np.ndarray, "n 2"],
    *,
    threshold: float | int = 1.0,
    confidence: float = 0.9999,
    iterations: int = 10_000,
    seed: int = 0,
) -> Bool[np.ndarray, " n"]:
    """Inliers of the best fundamental matrix; all False if there is none.

    Seven matches determine a matrix, so fewer than eight give no inliers.
    threshold: maximum Sampson error of an inlier in pixels.
    """
    require("poselib")
    import poselib

    if len(p0) < 8:
        return np.zeros(len(p0), bool)
    options = _ransac("max_epipolar_error", threshold, confidence, iterations, seed)
    F, info = poselib.estimate_fundamental(p0.astype(np.float64), p1.astype(np.float64), options, {})
    return np.asarray(info["inliers"], dtype=bool) & bool(np.isfinite(F).all())


def _pinhole(K: Float[np.ndarray, "3 3"]) -> dict[str, object]:
    # the estimators ignore the size
    parameters = [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])]
    return {"model": "PINHOLE", "width": -1, "height": -1, "params": parameters}


def _ransac(name: str, threshold: float, confidence: float, iterations: int, seed: int) -> dict[str, float | int]:
    return {
        name: threshold,
        "success_prob": confidence,
        "max_iterations": iterations,
        "min_iterations": min(iterations, 1000),
        "seed": seed,
    }
