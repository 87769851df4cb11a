"""The reward of a match where only the cameras are known."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from disk.geometry.camera import Camera, unproject
from disk.geometry.epipolar import epipolar_distance, fundamental, match_distance
from disk.shapes import Bool, Float, Int, Tensor


def epipolar_reward(
    kps1: Float[Tensor, "n 2"],
    kps2: Float[Tensor, "m 2"],
    camera1: Camera,
    camera2: Camera,
    *,
    positive: float = 1.0,
    negative: float = -0.25,
    threshold: float = 1.5,
    visibility: bool = True,
) -> Float[Tensor, "n m"]:
    """`positive` where a match obeys the epipolar geometry, `negative` elsewhere (DISK, section 3.3).

    kps1, kps2: pixels; threshold: largest distance to the epipolar line, in both images, in pixels.
    visibility: the point must also lie in front of both cameras; False is the original's reward.
    Cameras in one place have no epipolar geometry: 0 everywhere.
    """
    i, j = near_epipolar_line(kps1, kps2, camera1, camera2, threshold)
    right = epipolar_consistent(kps1[i], kps2[j], camera1, camera2, threshold, visibility)
    rewards = kps1.new_full((len(kps1), len(kps2)), negative)
    rewards[i, j] = torch.where(right, positive, negative).to(rewards.dtype)
    return rewards * has_baseline(camera1, camera2)


def near_epipolar_line(
    kps1: Float[Tensor, "n 2"], kps2: Float[Tensor, "m 2"], camera1: Camera, camera2: Camera, threshold: float
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]]:
    """Which pairs have the second keypoint near the line of the first: the few that are worth a closer look."""
    near = epipolar_distance(_fundamental(camera1, camera2, kps1), kps1, kps2) < threshold
    i, j = torch.nonzero(near, as_tuple=True)
    return i, j


def epipolar_consistent(
    kps1: Float[Tensor, "k 2"],
    kps2: Float[Tensor, "k 2"],
    camera1: Camera,
    camera2: Camera,
    threshold: float,
    visibility: bool,
) -> Bool[Tensor, " k"]:
    """Which matches (row i with row i) are closer than `threshold` pixels to each other's epipolar line.

    visibility: and meet in front of both cameras.
    """
    F = _fundamental(camera1, camera2, kps1)
    consistent = (match_distance(F, kps1, kps2) < threshold) & (match_distance(F.T, kps2, kps1) < threshold)
    return consistent & ~behind(kps1, kps2, camera1, camera2, threshold) if visibility else consistent


def behind(
    kps1: Float[Tensor, "k 2"], kps2: Float[Tensor, "k 2"], camera1: Camera, camera2: Camera, tolerance: float
) -> Bool[Tensor, " k"]:
    """Which matches (row i with row i) meet behind one of the cameras.

    The lengths s, t of the rays d1, d2 (unit vectors) to where they are closest solve
    s d1 - t d2 = c for the baseline c: with a = d1.d2, s (1 - a^2) = c.d1 - a c.d2 and
    t (1 - a^2) = a c.d1 - c.d2. Far points have nearly parallel rays, and then the sign is that of the
    keypoints' error: it must be clear of what `tolerance` pixels in both images can do.
    """
    camera1, camera2 = camera1.to(dtype=kps1.dtype), camera2.to(dtype=kps1.dtype)
    baseline = camera2.centre - camera1.centre
    ray1, ray2 = _rays(camera1, kps1), _rays(camera2, kps2)
    along1, along2 = ray1 @ baseline, ray2 @ baseline
    cosine = (ray1 * ray2).sum(1)
    focal = torch.minimum(camera1.K.diagonal()[:2], camera2.K.diagonal()[:2]).min()
    slack = -2 * tolerance / focal * torch.linalg.vector_norm(baseline)
    return (along1 - cosine * along2 < slack) | (cosine * along1 - along2 < slack)


def has_baseline(camera1: Camera, camera2: Camera) -> Bool[Tensor, ""]:
    """Whether the cameras are apart by more than rounding."""
    centre1, centre2 = camera1.centre, camera2.centre
    scale = torch.linalg.vector_norm(centre1) + torch.linalg.vector_norm(centre2)
    return torch.linalg.vector_norm(centre2 - centre1) > 1e-6 * scale


def _fundamental(camera1: Camera, camera2: Camera, like: Tensor) -> Float[Tensor, "3 3"]:
    return fundamental(camera1.to(dtype=torch.float64), camera2.to(dtype=torch.float64)).to(like.dtype)


def _rays(camera: Camera, pixels: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    """Unit directions in the world."""
    points = unproject(camera, pixels, torch.ones_like(pixels[:, 0]))
    return normalize(points - camera.centre, dim=1)
