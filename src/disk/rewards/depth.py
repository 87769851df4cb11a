"""The reward of a match where the depth of the scene is known."""

from __future__ import annotations

import torch

from disk.geometry.camera import Camera, project, unproject
from disk.rewards.epipolar import epipolar_consistent, has_baseline, near_epipolar_line
from disk.shapes import Bool, Float, Tensor

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
    # a match that reprojects is near the epipolar line, so the rest is negative
    i, j = near_epipolar_line(kps1, kps2, camera1, camera2, threshold)
    own1, own2 = _depth_at(kps1, depth1), _depth_at(kps2, depth2)
    in2, z2 = project(camera2, unproject(camera1, kps1, own1))
    in1, z1 = project(camera1, unproject(camera2, kps2, own2))
    # comparisons with nan, the unknown, are false
    same = _closer(in2[i], kps2[j], threshold) & _closer(in1[j], kps1[i], threshold)
    if visibility:
        same &= _same_depth(z2[i], own2[j]) & _same_depth(z1[j], own1[i])
    on_line = epipolar_consistent(kps1[i], kps2[j], camera1, camera2, threshold, visibility)
    rewards = kps1.new_full((len(kps1), len(kps2)), negative) * has_baseline(camera1, camera2)
    rewards[i, j] = torch.where(same, positive, torch.where(on_line, 0.0, negative)).to(rewards.dtype)
    return rewards


def _depth_at(kps: Float[Tensor, "n 2"], depth: Float[Tensor, "h w"]) -> Float[Tensor, " n"]:
    """Depth at the nearest pixel, nan where unknown."""
    x, y = kps.round().long().unbind(1)
    found = depth[y, x].to(kps.dtype)
    return torch.where(found > 0, found, torch.nan)


def _closer(p: Float[Tensor, "k 2"], q: Float[Tensor, "k 2"], threshold: float) -> Bool[Tensor, " k"]:
    return (p - q).square().sum(1) < threshold**2


def _same_depth(a: Float[Tensor, " k"], b: Float[Tensor, " k"]) -> Bool[Tensor, " k"]:
    """Also false for a depth behind the camera, as the other one is positive."""
    return (a < SAME_DEPTH * b) & (b < SAME_DEPTH * a)
