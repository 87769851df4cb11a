"""The reward of a match where only the cameras are known."""

from __future__ import annotations

import torch

from disk.geometry.camera import Camera, unproject
from disk.geometry.epipolar import epipolar_distance, fundamental
from disk.shapes import Bool, Float, Tensor


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
    consistent = epipolar_consistent(kps1, kps2, camera1, camera2, threshold, visibility)
    return torch.where(consistent, positive, negative) * has_baseline(camera1, camera2)


def epipolar_consistent(
    kps1: Float[Tensor, "n 2"],
    kps2: Float[Tensor, "m 2"],
    camera1: Camera,
    camera2: Camera,
    threshold: float,
    visibility: bool,
) -> Bool[Tensor, "n m"]:
    """Which pairs of keypoints are closer than `threshold` pixels to each other's epipolar line."""
    F = fundamental(camera1.to(dtype=torch.float64), camera2.to(dtype=torch.float64)).to(kps1.dtype)
    consistent = epipolar_distance(F, kps1, kps2) < threshold
    consistent &= (epipolar_distance(F.T, kps2, kps1) < threshold).T
    if visibility:
        consistent &= ~behind(kps1, kps2, camera1, camera2, threshold)
    return consistent


def behind(
    kps1: Float[Tensor, "n 2"],
    kps2: Float[Tensor, "m 2"],
    camera1: Camera,
    camera2: Camera,
    tolerance: float,
) -> Bool[Tensor, "n m"]:
    """Which pairs of keypoints meet behind one of the cameras.

    The lengths s, t of the rays d1, d2 (unit vectors) to where they are closest solve
    s d1 - t d2 = c for the baseline c: with a = d1.d2, s (1 - a^2) = c.d1 - a c.d2 and
    t (1 - a^2) = a c.d1 - c.d2. Far points have nearly parallel rays, and then the sign is that of the
    keypoints' error: it must be clear of what `tolerance` pixels in both images can do.
    """
    camera1, camera2 = camera1.to(dtype=kps1.dtype), camera2.to(dtype=kps1.dtype)
    baseline = _centre(camera2) - _centre(camera1)
    ray1, ray2 = _rays(camera1, kps1), _rays(camera2, kps2)
    along1, along2 = ray1 @ baseline, ray2 @ baseline
    cosine = ray1 @ ray2.T
    focal = torch.minimum(camera1.K[[0, 1], [0, 1]], camera2.K[[0, 1], [0, 1]]).min()
    slack = -2 * tolerance / focal * torch.linalg.vector_norm(baseline)
    return (along1[:, None] - cosine * along2 < slack) | (cosine * along1[:, None] - along2 < slack)


def has_baseline(camera1: Camera, camera2: Camera) -> Bool[Tensor, ""]:
    """Whether the cameras are apart by more than rounding."""
    centre1, centre2 = _centre(camera1), _centre(camera2)
    scale = torch.linalg.vector_norm(centre1) + torch.linalg.vector_norm(centre2)
    return torch.linalg.vector_norm(centre2 - centre1) > 1e-6 * scale


def _centre(camera: Camera) -> Float[Tensor, " 3"]:
    return -camera.R.T @ camera.t


def _rays(camera: Camera, pixels: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    """Unit directions in the world."""
    points = unproject(camera, pixels, torch.ones_like(pixels[:, 0]))
    return torch.nn.functional.normalize(points - _centre(camera), dim=1)
