"""The reward of a match, by depth if both images have it, otherwise by the cameras alone.

As in DISK (Tyszkiewicz et al. 2020, section 3.3). With depth, a match is correct if both keypoints see the same point
of the scene: both reprojection errors are below a threshold. A match that only satisfies the epipolar constraint earns
0; any other match is wrong. Without depth, a match is correct if it satisfies the epipolar constraint. The kernel in
`disk.training.kernels` computes `reward` in the same order.
"""

from __future__ import annotations

import torch
from torch.nn.utils.rnn import pad_sequence

from disk.blocks import blocks, rows_at_once
from disk.geometry.camera import Camera
from disk.rewards.terms import PairTerms, RewardOptions, Terms, depth_at, pair_terms
from disk.shapes import Float, Tensor

# maximum ratio of two depths of the same surface point: 1.5 px on a surface seen at 80 degrees change depth by 3 %
SAME_DEPTH = 1.05
# added to the threshold when selecting matches near their epipolar line, in pixels; more than any rounding error
_MARGIN = 0.1
# matches processed together; on a CPU their terms fit in the cache
_AT_ONCE = {"cpu": 1 << 19, "other": 1 << 26}


def reward(one: Terms, two: Terms, slack: Tensor, on_line: Tensor, options: RewardOptions) -> Tensor:
    """The reward of matches. Swapping the two images gives the same bits.

    Where the rays meet: the lengths s, t along the rays d1, d2 (unit vectors) to their closest points solve
    s d1 - t d2 = c for the baseline c. With a = d1.d2, s (1 - a^2) = c.d1 - a c.d2 and t (1 - a^2) = a c.d1 - c.d2.
    Rays to distant points are nearly parallel, and keypoint errors decide the sign of s and t. A point therefore counts
    as behind a camera only if errors of `threshold` pixels in both images cannot explain it.
    one, two: terms of the keypoints of the two images, with shapes that broadcast.
    slack, on_line: as in `PairTerms`.
    """
    threshold = options.threshold
    near = (one.line_a * two.x + one.line_b * two.y + one.line_c).abs() < threshold
    near = near & ((two.line_a * one.x + two.line_b * one.y + two.line_c).abs() < threshold)
    same = _closer(one.seen_x, one.seen_y, two, threshold) & _closer(two.seen_x, two.seen_y, one, threshold)
    earned = on_line
    if options.visibility:
        same = same & _same_depth(one.seen_z, two.own_z) & _same_depth(two.seen_z, one.own_z)
        cosine = one.ray_x * two.ray_x + one.ray_y * two.ray_y + one.ray_z * two.ray_z
        behind = (one.along + cosine * two.along < slack) | (two.along + cosine * one.along < slack)
        earned = torch.where(behind, options.negative, earned)
    return torch.where(near, torch.where(same, options.positive, earned), options.negative)


def match_rewards(terms: PairTerms) -> Float[Tensor, "p n m"]:
    """The rewards of all matches of all pairs."""
    pairs, _, n = terms.one.shape
    m = terms.two.shape[2]
    rewards = terms.one.new_full((pairs, n, m), terms.options.negative)
    one, two = Terms(*terms.one.unbind(1)), Terms(*terms.two.unbind(1))
    lines = torch.stack([one.line_a, one.line_b, one.line_c], 2)
    ends = torch.stack([two.x, two.y, torch.ones_like(two.x)], 1)
    at_once = rows_at_once(1, rewards.device, _AT_ONCE)
    for rows in blocks(n, rows_at_once(pairs * m, rewards.device, _AT_ONCE)):
        # only the few matches near the epipolar line need the full test; all others are wrong
        near = (lines[:, rows] @ ends).abs_() < terms.options.threshold + _MARGIN
        for p, i, j in zip(*(index.split(at_once) for index in torch.nonzero(near, as_tuple=True)), strict=True):
            i = i + rows.start
            ones, twos = Terms(*(part[p, i] for part in one)), Terms(*(part[p, j] for part in two))
            rewards[p, i, j] = reward(ones, twos, terms.slack[p], terms.on_line[p], terms.options)
    return rewards


def pair_rewards(
    kps1: Float[Tensor, "n 2"],
    kps2: Float[Tensor, "m 2"],
    camera1: Camera,
    camera2: Camera,
    depth1: Float[Tensor, "h1 w1"] | None = None,
    depth2: Float[Tensor, "h2 w2"] | None = None,
    options: RewardOptions = RewardOptions(),
) -> Float[Tensor, "n m"]:
    """The reward of every match of two images, by depth if both have it.

    With depth, a match of a keypoint of unknown depth (0) is never correct. Without depth, all rewards
    are 0 if both cameras are at the same place, as there is no epipolar geometry.
    """
    terms = _of_pair(kps1, kps2, camera1, camera2, depth1, depth2, options)
    return match_rewards(terms)[0, : len(kps1), : len(kps2)]


def matched_rewards(
    kps1: Float[Tensor, "k 2"],
    kps2: Float[Tensor, "k 2"],
    camera1: Camera,
    camera2: Camera,
    depth1: Float[Tensor, "h1 w1"] | None = None,
    depth2: Float[Tensor, "h2 w2"] | None = None,
    options: RewardOptions = RewardOptions(),
) -> Float[Tensor, " k"]:
    """The rewards of the matches of row i with row i; see `pair_rewards`."""
    terms = _of_pair(kps1, kps2, camera1, camera2, depth1, depth2, options)
    one, two = Terms(*terms.one[0]), Terms(*terms.two[0])
    return reward(one, two, terms.slack, terms.on_line, options)


def _of_pair(
    kps1: Tensor, kps2: Tensor, camera1: Camera, camera2: Camera, depth1: Tensor | None, depth2: Tensor | None,
    options: RewardOptions,
) -> PairTerms:  # fmt: skip
    points = pad_sequence([kps1, kps2], batch_first=True)
    known = torch.tensor([depth1 is not None, depth2 is not None], device=kps1.device)
    depths = points.new_full(points.shape[:2], torch.nan)
    for number, (kps, depth) in enumerate(((kps1, depth1), (kps2, depth2))):
        if depth is not None:
            depths[number, : len(kps)] = depth_at(kps, depth)
    first, second = torch.arange(2, device=kps1.device).split(1)
    return pair_terms([camera1, camera2], points, depths, known, first, second, options)


def _closer(x: Tensor, y: Tensor, other: Terms, threshold: float) -> Tensor:
    """False if unknown (nan)."""
    dx, dy = x - other.x, y - other.y
    return dx * dx + dy * dy < threshold**2


def _same_depth(a: Tensor, b: Tensor) -> Tensor:
    """False also for a depth behind the camera, as the other depth is positive."""
    return (a < SAME_DEPTH * b) & (b < SAME_DEPTH * a)
