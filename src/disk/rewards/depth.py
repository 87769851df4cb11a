"""The reward of a match where the depth of the scene is known."""

from __future__ import annotations

import torch

from disk.geometry.camera import Camera, project, unproject
from disk.rewards.epipolar import epipolar_consistent
from disk.shapes import Float, Tensor

# two depths of one surface point agree up to this ratio: 1.5 px on a surface seen at 80 degrees are 3 %
SAME_DEPTH = 1.05


def depth_reward(
    kps1: Float[Tensor, "n 2"],
    kps2: Float[Tensor, "m 2"],
    camera1: Camera,
    camera2: Camera,
    depth1: Float[Tensor, "h1 w1"],
    depth2: Float[Tensor, "h2 w2"],
    *,
    positive: float = 1.0,
    negative: float = -0.25,
    threshold: float = 1.5,
    visibility: bool = True,
) -> Float[Tensor, "n m"]:
    """`positive` where both keypoints see one point of the scene, `negative` off the epipolar line, else 0.

    As in DISK (section 3.3): both reprojections are closer than `threshold` pixels; the depth is that of the
    keypoint's own pixel, and a keypoint of unknown depth (0) is never positive. visibility: what is
    reprojected must also lie in front of the other camera and at the depth that is visible there, not hidden
    behind it; False is the original's reward.
    """
    camera1, camera2 = camera1.to(dtype=kps1.dtype), camera2.to(dtype=kps1.dtype)
    in2, z2, _ = _reproject(kps1, depth1, camera1, camera2)
    in1, z1, own2 = _reproject(kps2, depth2, camera2, camera1)
    own1 = _depth_at(kps1, depth1)
    # comparisons with nan, the unknown, are false
    same = _closer(in2, kps2, threshold) & _closer(in1, kps1, threshold).T
    if visibility:
        same &= _same_depth(z2[:, None], own2[None]) & _same_depth(own1[:, None], z1[None])
    off_line = ~epipolar_consistent(kps1, kps2, camera1, camera2, threshold, visibility)
    return torch.where(same, positive, torch.where(off_line, negative, 0.0))


def _depth_at(kps: Float[Tensor, "n 2"], depth: Float[Tensor, "h w"]) -> Float[Tensor, " n"]:
    """Depth at the nearest pixel, nan where unknown."""
    x, y = kps.round().long().unbind(1)
    found = depth[y, x].to(kps.dtype)
    return torch.where(found > 0, found, torch.nan)


def _reproject(
    kps: Float[Tensor, "n 2"], depth: Float[Tensor, "h w"], camera: Camera, other: Camera
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Pixel and depth in the other camera, and depth in the own one."""
    own = _depth_at(kps, depth)
    pixels, z = project(other, unproject(camera, kps, own))
    return pixels, z, own


def _closer(p: Float[Tensor, "n 2"], q: Float[Tensor, "m 2"], threshold: float) -> Tensor:
    # not torch.cdist, whose matrix product loses the pixels' last digits
    squared = (p[:, None, 0] - q[None, :, 0]) ** 2 + (p[:, None, 1] - q[None, :, 1]) ** 2
    return squared < threshold**2


def _same_depth(a: Tensor, b: Tensor) -> Tensor:
    """Also false for a depth behind the camera, as the other one is positive."""
    return (a < SAME_DEPTH * b) & (b < SAME_DEPTH * a)
