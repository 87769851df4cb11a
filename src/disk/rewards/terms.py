"""Per-keypoint terms of the rewards of matches, for many pairs of images at once.

Everything that depends only on one keypoint and the two cameras is computed here, so that the reward of a match takes
only a few products of the terms of its two keypoints (`disk.rewards.matches`). All sums have a fixed order: the terms
are bit-identical alone or in a batch, on a CPU or a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from disk.geometry.camera import Camera
from disk.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True, kw_only=True)
class RewardOptions:
    """What makes a match correct, and the rewards of matches.

    positive: reward of a correct match.
    negative: reward of a wrong match.
    threshold: maximum error of a correct match in pixels.
    visibility: a reprojected point must also be in front of the other camera and at the depth visible there; False
    gives the original's reward.
    epipolar: do not use depth.
    """

    positive: float = 1.0
    negative: float = -0.25
    threshold: float = 1.5
    visibility: bool = True
    epipolar: bool = False


class Terms(NamedTuple):
    """Terms of the keypoints of one image that are matched with those of another; all have the same shape.

    x, y: the keypoint in pixels.
    line_a, line_b, line_c: its epipolar line in the other image, with (a, b) of unit length; all 0 if there is none.
    ray_x, ray_y, ray_z: unit direction of its ray in world coordinates.
    along: component along the ray of the vector to the other camera.
    seen_x, seen_y, seen_z: pixel and depth at which the other camera sees the scene point; nan if the depth is unknown
    or not used.
    own_z: depth of the keypoint; nan likewise.
    """

    x: Tensor
    y: Tensor
    line_a: Tensor
    line_b: Tensor
    line_c: Tensor
    ray_x: Tensor
    ray_y: Tensor
    ray_z: Tensor
    along: Tensor
    seen_x: Tensor
    seen_y: Tensor
    seen_z: Tensor
    own_z: Tensor


@dataclass(frozen=True)
class PairTerms:
    """Terms of some pairs.

    one, two: terms of the keypoints of both images, in the order of `Terms`.
    slack: limit (at most 0) below which the length of a ray to the meeting point puts that point behind the camera.
    on_line: reward of a match that satisfies the epipolar constraint but is not known to see one point of the scene.
    """

    one: Float[Tensor, "p 13 n"]
    two: Float[Tensor, "p 13 m"]
    slack: Float[Tensor, " p"]
    on_line: Float[Tensor, " p"]
    options: RewardOptions

    def part(self, pairs: slice, n: int, m: int) -> PairTerms:
        """Select some pairs and the first n and m of their keypoints."""
        return PairTerms(
            self.one[pairs, :, :n], self.two[pairs, :, :m], self.slack[pairs], self.on_line[pairs], self.options
        )


def depth_at(points: Float[Tensor, "n 2"], depth: Float[Tensor, "h w"]) -> Float[Tensor, " n"]:
    """Depth at the nearest pixel; nan if unknown."""
    x, y = points.round().long().unbind(1)
    found = depth[y, x].to(points.dtype)
    return torch.where(found > 0, found, torch.nan)


@torch.no_grad()
def pair_terms(
    cameras: Sequence[Camera],
    points: Float[Tensor, "i n 2"],
    depths: Float[Tensor, "i n"],
    known: Bool[Tensor, " i"],
    first: Int[Tensor, " p"],
    second: Int[Tensor, " p"],
    options: RewardOptions,
) -> PairTerms:
    """Compute the terms of pairs of images (first[p], second[p]).

    A pair uses depth if both images have a depth map, unless `options.epipolar`.
    depths: depth of each keypoint; nan if unknown.
    known: which images have a depth map.
    """
    K, R, t = (torch.stack([getattr(camera, part) for camera in cameras]) for part in ("K", "R", "t"))
    # in double precision, which Apple GPUs lack
    work = torch.device("cpu") if points.device.type == "mps" else points.device
    K64, R64, t64 = (part.to(work, torch.float64) for part in (K, R, t))
    i, j = first.to(work), second.to(work)
    inverse = torch.linalg.inv_ex(K64).inverse  # unlike `inv`, does not wait for a GPU
    relative = R64[j] @ R64[i].mT
    shift = t64[j] - (relative @ t64[i, :, None])[..., 0]
    centre = -(R64.mT @ t64[..., None])[..., 0]
    baseline = centre[j] - centre[i]
    length, reach = torch.linalg.vector_norm(baseline, dim=1), torch.linalg.vector_norm(centre, dim=1)
    apart = length > 1e-6 * (reach[i] + reach[j])
    # cameras at the same place have no epipolar geometry; one computed from rounding errors is meaningless
    shift, baseline = shift * apart[:, None], baseline * apart[:, None]
    F = inverse[j].mT @ _skew(shift) @ relative @ inverse[i]
    focal = K64.diagonal(dim1=1, dim2=2)[:, :2].amin(1)
    slack = -2 * options.threshold / torch.minimum(focal[i], focal[j]) * length * apart

    # from here on, every pair is handled from both sides
    own, other = torch.cat([first, second]), torch.cat([second, first])
    F, baseline = torch.cat([F, F.mT]), torch.cat([baseline, -baseline])
    F, baseline, slack, inverse, K, R, t = (part.to(points) for part in (F, baseline, slack, inverse, K, R, t))
    pixels = torch.cat([points, torch.ones_like(points[..., :1])], 2).mT
    local = _apply(inverse, pixels)
    local = local / local[:, 2:]
    ray = _apply(R.mT, local)
    ray = ray / _norm(ray)
    world = _apply(R.mT, local * depths[:, None] - t[..., None])

    lines = _apply(F, pixels[own])
    lines = lines / _norm(lines[:, :2]).clamp(min=torch.finfo(points.dtype).tiny)
    ray = ray[own]
    along = _dot(ray, baseline[..., None])
    seen = _apply(R[other], world[own]) + t[other][..., None]
    image = _apply(K[other], seen)
    known = known[own] & known[other] & (not options.epipolar)
    scene = torch.cat([image[:, :2] / image[:, 2:], seen[:, 2:], depths[own, None]], 1)
    scene = torch.where(known[:, None, None], scene, torch.nan)
    terms, pairs = torch.cat([pixels[own, :2], lines, ray, along, scene], 1), len(first)
    on_line = torch.where(known[:pairs], 0.0, options.positive * apart.to(points))
    return PairTerms(terms[:pairs], terms[pairs:], slack, on_line, options)


def _apply(M: Float[Tensor, "p 3 3"], x: Float[Tensor, "p 3 n"]) -> Float[Tensor, "p 3 n"]:
    """M @ x, summed from left to right, which libraries do not guarantee."""
    return M[:, :, 0, None] * x[:, 0, None] + M[:, :, 1, None] * x[:, 1, None] + M[:, :, 2, None] * x[:, 2, None]


def _dot(a: Tensor, b: Tensor) -> Float[Tensor, "p 1 n"]:
    """Dot products over the second dimension, summed from left to right."""
    products = a * b
    total = products[:, :1]
    for k in range(1, products.shape[1]):
        total = total + products[:, k : k + 1]
    return total


def _norm(x: Tensor) -> Float[Tensor, "p 1 n"]:
    return _dot(x, x).sqrt()


def _skew(v: Float[Tensor, "p 3"]) -> Float[Tensor, "p 3 3"]:
    """The matrices [v]x that satisfy [v]x w = v x w."""
    x, y, z = v.unbind(1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 3, 3)
