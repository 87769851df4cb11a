"""Epipolar geometry of two pinhole cameras (Hartley and Zisserman, Multiple View Geometry, chapter 9)."""

from __future__ import annotations

import math

import torch

from disk.geometry.camera import Camera, relative_pose
from disk.shapes import Float, Tensor

_SAMPLE = 7  # matches that determine a fundamental matrix


def skew(v: Float[Tensor, " 3"]) -> Float[Tensor, "3 3"]:
    """The matrix [v]x with [v]x w = v x w."""
    x, y, z = v.unbind()
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)


def essential(R: Float[Tensor, "3 3"], t: Float[Tensor, " 3"]) -> Float[Tensor, "3 3"]:
    """E = [t]x R of cam2_from_cam1 = (R, t): x2^T E x1 = 0 for normalised points."""
    return skew(t) @ R


def fundamental(camera1: Camera, camera2: Camera) -> Float[Tensor, "3 3"]:
    """F = K2^-T [t]x R K1^-1 of (R, t) = cam2_from_cam1: x2^T F x1 = 0 for pixels (HZ 9.6)."""
    E = essential(*relative_pose(camera1, camera2))
    return torch.linalg.inv(camera2.K).T @ E @ torch.linalg.inv(camera1.K)


def epipolar_distance(
    F: Float[Tensor, "3 3"], p1: Float[Tensor, "n 2"], p2: Float[Tensor, "m 2"]
) -> Float[Tensor, "n m"]:
    """Distance in pixels of every p2 to the line F @ p1 in image 2.

    The other direction is `epipolar_distance(F.T, p2, p1).T`. A p1 on the epipole has no line: distance 0.
    """
    lines = _lines(F, p1)
    return (lines[:, :2] @ p2.T + lines[:, 2:]).abs()


def match_distance(F: Float[Tensor, "3 3"], p1: Float[Tensor, "n 2"], p2: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """As `epipolar_distance`, of each p2 to the line of the p1 in the same row."""
    lines = _lines(F, p1)
    return ((lines[:, :2] * p2).sum(1) + lines[:, 2]).abs()


def _lines(F: Tensor, p1: Tensor) -> Float[Tensor, "n 3"]:
    """The lines F @ p1 with normals of unit length."""
    lines = p1 @ F[:, :2].T + F[:, 2]
    length = torch.linalg.vector_norm(lines[:, :2], dim=1, keepdim=True)
    return lines / length.clamp(min=torch.finfo(p1.dtype).tiny)


def log10_false_alarms(matches: int, inliers: int, chance: float) -> float:
    """The log10 of how many epipolar geometries as good as this one to expect where no match is right.

    chance: the probability that a wrong match is an inlier. Every 7 of the matches may have proposed up to three
    geometries, so of hundreds of wrong matches a tenth agree with the luckiest one; below 0, or one geometry, it is no
    luck. Infinite when no more than the 7 agree (Moisan and Stival, IJCV 2004).
    """
    if inliers <= _SAMPLE:
        return math.inf
    proposals = 3 * (matches - _SAMPLE) * math.comb(matches, inliers) * math.comb(inliers, _SAMPLE)
    return math.log10(proposals) + (inliers - _SAMPLE) * math.log10(chance)


def chance_of_inlier(width: int, height: int, max_error: float | int) -> float:
    """At most the probability that a random point of an image is within `max_error` of a line, all in pixels."""
    return min(1.0, 2 * max_error * math.hypot(width, height) / (width * height))
