"""Pose errors in degrees, and the similarity transform between two sets of points, in NumPy float64."""

from __future__ import annotations

import numpy as np

from disk.shapes import Float


def rotation_error(R: Float[np.ndarray, "3 3"], R_gt: Float[np.ndarray, "3 3"]) -> float:
    """Angle of R @ R_gt^T in degrees, 0 to 180 (the full angle, not half of it).

    Uses atan2 of sine and cosine (trace = 1 + 2 cos), which is accurate near both 0 and 180.
    """
    difference = R.astype(np.float64) @ R_gt.astype(np.float64).T
    cosine = (np.trace(difference) - 1) / 2
    axis = (difference - difference.T)[[2, 0, 1], [1, 2, 0]] / 2
    return float(np.degrees(np.arctan2(np.linalg.norm(axis), cosine)))


def translation_error(t: Float[np.ndarray, " 3"], t_gt: Float[np.ndarray, " 3"]) -> float:
    """Angle between two directions in degrees, 0 to 90, regardless of length and sign, as in the IMW benchmark.

    It is 0 if the ground truth is zero, as there is no direction to compare with.
    """
    t, t_gt = t.astype(np.float64), t_gt.astype(np.float64)
    if not t_gt.any():
        return 0.0
    if not t.any():
        return 90.0
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(t, t_gt)), abs(t @ t_gt))))


def align_similarity(
    src: Float[np.ndarray, "n 3"], dst: Float[np.ndarray, "n 3"]
) -> tuple[float, Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"]]:
    """The similarity (s, R, t) that minimises the sum of |dst - (s R src + t)|^2 (Umeyama, PAMI 1991).

    Raises ValueError if there are fewer than three points or all of them are at the same place.
    """
    if len(src) < 3:
        raise ValueError(f"a similarity needs 3 points, got {len(src)}")
    src, dst = src.astype(np.float64), dst.astype(np.float64)
    centre_src, centre_dst = src.mean(0), dst.mean(0)
    from_src, from_dst = src - centre_src, dst - centre_dst
    variance = (from_src**2).sum()
    if variance == 0:
        raise ValueError("a similarity needs points in more than one place")
    U, singular, Vt = np.linalg.svd(from_dst.T @ from_src)
    # if a reflection fits better than any rotation, flip the weakest axis
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(U) * np.linalg.det(Vt)) or 1.0])
    R = (U * signs) @ Vt
    scale = float((singular * signs).sum() / variance)
    return scale, R, centre_dst - scale * R @ centre_src
