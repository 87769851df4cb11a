"""The reward of a match: by depth where both images have it, else by the cameras alone.

As in DISK (Tyszkiewicz et al. 2020, section 3.3). With depth a match is right where both keypoints see one point of the
scene: both reprojections are closer than a threshold; a match that merely obeys the epipolar geometry earns 0, any
other is wrong. Without depth a match is right where it obeys the epipolar geometry. The kernel in
`disk.training.kernels` computes `reward` in the same order.
"""

from __future__ import annotations

import torch
from torch.nn.utils.rnn import pad_sequence

from disk.blocks import blocks, rows_at_once
from disk.geometry.camera import Camera
from disk.rewards.terms import PairTerms, RewardOptions, Terms, depth_at, pair_terms
from disk.shapes import Float, Tensor

# two depths of one surface point agree up to this ratio: 1.5 px on a surface seen at 80 degrees are 3 %
SAME_DEPTH = 1.05
# matches this much further from the epipolar line than allowed, in pixels, are not looked at: more than rounding
_MARGIN = 0.1
# matches looked at together: on a processor their terms stay in the cache
_AT_ONCE = {"cpu": 1 << 19, "other": 1 << 26}


def reward(one: Terms, two: Terms, slack: Tensor, on_line: Tensor, options: RewardOptions) -> Tensor:
    """The reward of matches; the terms of the keypoints of the two images have shapes that broadcast.

    The same bits with the two images exchanged. Where they meet: the lengths s, t of the rays d1, d2 (unit vectors) to
    where they are closest solve s d1 - t d2 = c for the baseline c; with a = d1.d2, s (1 - a^2) = c.d1 - a c.d2 and
    t (1 - a^2) = a c.d1 - c.d2. Far points have nearly parallel rays, and then the sign is that of the keypoints'
    error: it must be clear of what `threshold` pixels in both images can do.
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
        # the few that are worth a closer look: what is far from the line is wrong
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
    """The reward of every match of two images, by depth where both have it.

    A keypoint of unknown depth (0) is never right then. Cameras in one place have no epipolar geometry: without depth
    0 everywhere.
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
    """As `pair_rewards`, of the matches of row i with row i."""
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
    """Comparisons with nan, the unknown, are false."""
    dx, dy = x - other.x, y - other.y
    return dx * dx + dy * dy < threshold**2


def _same_depth(a: Tensor, b: Tensor) -> Tensor:
    """Also false for a depth behind the camera, as the other one is positive."""
    return (a < SAME_DEPTH * b) & (b < SAME_DEPTH * a)
