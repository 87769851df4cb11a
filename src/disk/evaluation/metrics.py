"""Metrics of one pair of images, in NumPy float64. Inputs are pixels; docs/evaluation.md explains each figure."""

from __future__ import annotations

import numpy as np
import torch

from disk.shapes import Float

# error of a missing homography, and of pixels mapped to infinity
INFINITE = float("inf")


def symmetric_epipolar_distance(
    p0: Float[np.ndarray, "n 2"],
    p1: Float[np.ndarray, "n 2"],
    K0: Float[np.ndarray, "3 3"],
    K1: Float[np.ndarray, "3 3"],
    R: Float[np.ndarray, "3 3"],
    t: Float[np.ndarray, " 3"],
) -> Float[np.ndarray, " n"]:
    """Sum of the squared distances to both epipolar lines, in normalised coordinates.

    (x1^T E x0)^2 (1 / |E x0|_xy^2 + 1 / |E^T x1|_xy^2): Hartley and Zisserman 11.10; SuperGlue uses it to decide which
    matches are correct.
    p0, p1: matched pixels.
    R, t: ground truth, cam1_from_cam0.
    """
    direction = t / (np.linalg.norm(t) or 1.0)
    x, y, z = direction
    E = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ R
    x0, x1 = _normalised(p0, K0), _normalised(p1, K1)
    lines1, lines0 = x0 @ E.T, x1 @ E
    residual = (x1 * lines1).sum(1) ** 2
    tiny = np.finfo(np.float64).tiny
    length1 = np.maximum((lines1[:, :2] ** 2).sum(1), tiny)
    length0 = np.maximum((lines0[:, :2] ** 2).sum(1), tiny)
    return np.asarray(residual / length1 + residual / length0)


def warp(H: Float[np.ndarray, "3 3"], points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Map points by a homography; infinite if mapped to infinity."""
    mapped = np.c_[points.astype(np.float64), np.ones(len(points))] @ H.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(mapped[:, 2:] != 0, mapped[:, :2] / mapped[:, 2:], INFINITE)


def transfer_error(
    H: Float[np.ndarray, "3 3"], p0: Float[np.ndarray, "n 2"], p1: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, " n"]:
    """Distance |H p0 - p1| in pixels of image 1, D2-Net's error of a match."""
    return np.linalg.norm(warp(H, p0) - p1, axis=1)


def corner_error(H: Float[np.ndarray, "3 3"] | None, H_gt: Float[np.ndarray, "3 3"], size: tuple[int, int]) -> float:
    """Mean distance in pixels between the corners of image 0 mapped by H and by the ground truth.

    SuperPoint's error of a homography (DeTone et al. 2018); infinite if H is None.
    size: (width, height) of image 0.
    """
    if H is None:
        return INFINITE
    right, bottom = size[0] - 1, size[1] - 1
    corners = np.array([[0.0, 0], [right, 0], [0, bottom], [right, bottom]])
    with np.errstate(invalid="ignore"):
        error = np.linalg.norm(warp(H, corners) - warp(H_gt, corners), axis=1).mean()
    return float(error) if np.isfinite(error) else INFINITE


def covisible(H: Float[np.ndarray, "3 3"], points: Float[np.ndarray, "n 2"], size: tuple[int, int]) -> np.ndarray:
    """Which points H maps into an image of size (width, height)."""
    x, y = warp(H, points).T
    return (x >= -0.5) & (x < size[0] - 0.5) & (y >= -0.5) & (y < size[1] - 0.5)


def repeatability(
    H: Float[np.ndarray, "3 3"],
    p0: Float[np.ndarray, "n 2"],
    p1: Float[np.ndarray, "m 2"],
    seen0: np.ndarray,
    seen1: np.ndarray,
    threshold: float,
) -> float:
    """Fraction of the covisible keypoints that have a keypoint of the other image within `threshold` pixels.

    Both directions count, each measured in the image it is mapped to (SuperPoint, appendix A). 0 if an image has no
    covisible keypoints.
    seen0, seen1: which keypoints the other image sees.
    """
    shared0, shared1 = p0[seen0], p1[seen1]
    total = len(shared0) + len(shared1)
    if len(shared0) == 0 or len(shared1) == 0:
        return 0.0
    forward = _nearest(warp(H, shared0), shared1)
    backward = _nearest(warp(np.linalg.inv(H), shared1), shared0)
    return float((forward <= threshold).sum() + (backward <= threshold).sum()) / total


def matching_score(correct: int, seen0: int, seen1: int) -> float:
    """Correct covisible matches over covisible keypoints, averaged over both images (SuperPoint, appendix A)."""
    return (_share(correct, seen0) + _share(correct, seen1)) / 2


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _nearest(points: Float[np.ndarray, "n 2"], others: Float[np.ndarray, "m 2"]) -> Float[np.ndarray, " n"]:
    mode = "donot_use_mm_for_euclid_dist"  # with matrix products, small distances are lost to rounding
    a, b = torch.from_numpy(np.asarray(points, np.float64)), torch.from_numpy(np.asarray(others, np.float64))
    return np.concatenate([torch.cdist(part, b, compute_mode=mode).min(dim=1).values.numpy() for part in a.split(4096)])


def _normalised(pixels: Float[np.ndarray, "n 2"], K: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "n 3"]:
    return np.linalg.solve(K, np.c_[pixels, np.ones(len(pixels))].T).T
