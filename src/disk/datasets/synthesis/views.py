"""Cameras for scenes: drawn at growing distance from a first one, then chosen by overlap."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from disk.datasets.synthesis.dice import Dice
from disk.datasets.synthesis.scene import Scenes
from disk.datasets.synthesis.trace import Views, trace, visible_planes
from disk.shapes import Float, Tensor

MIN_OVERLAP, MAX_OVERLAP = 0.2, 0.9
MAX_ANGLE = 1.3  # maximum target angle between the viewing directions of two views, in radians
_GRID = 12  # rays per side to measure the overlap
_NEAREST = 0.4  # minimum distance from a camera to a surface


def draw_views(dice: Dice, scenes: Scenes, count: int, height: int, width: int) -> Views:
    """Draw `count` cameras per scene: the first in front of the scene or beside it, the others farther and farther away
    from the first.

    Parameters are rounded to float32, so that float32 cameras are exact.
    scenes: on the CPU.
    height, width: size of the images in pixels.
    """
    apart = torch.linspace(0, 1, count, dtype=torch.float64) ** 0.7
    is_ground = scenes.up[:, 2, None] > 0
    # direction to the camera: tilt from the main plane's normal, and angle around it
    tilt0 = torch.where(is_ground, dice.uniform(0.35, 1.1, 1), dice.uniform(0, 0.7, 1))
    around0 = torch.where(is_ground, -math.pi / 2, dice.uniform(-math.pi, math.pi, 1))
    x, y = tilt0 * around0.cos(), 0.7 * tilt0 * around0.sin()
    # a camera turns, shifts or zooms much, rarely all at once
    swing, way = apart * dice.uniform(0, 1.8, count), dice.uniform(-math.pi, math.pi, count)
    aside, raised = swing * way.cos(), swing * way.sin()
    # walking on a ground rotates about its normal; walking in front of a wall rotates about the vertical
    x = x + torch.where(is_ground, 0.2, 1.0) * aside
    y = y + torch.where(is_ground, 0.35, 0.7) * raised
    tilt, around = torch.hypot(x, y).clamp(max=1.2), torch.atan2(y, x) + torch.where(is_ground, aside, 0.0)
    to_camera = torch.stack([tilt.sin() * around.cos(), tilt.sin() * around.sin(), tilt.cos()], -1)
    zoom0, reach0 = dice.log_uniform(0.75, 1.4, 1), dice.log_uniform(0.55, 1.1, 1)
    zoom = apart * dice.uniform(-0.9, 0.9, count) * dice.uniform(0, 1, count)
    close_up = apart * torch.where(dice.chance(0.35, count), dice.uniform(0.6, 1.3, count), 0.0)
    zoom = zoom0 * (zoom + close_up).exp()
    approach = (apart * dice.uniform(-0.5, 0.5, count)).exp()
    distance = (2 * zoom0 * reach0 * approach).clamp(1.1, 2.7)
    target = torch.cat([dice.uniform(-0.5, 0.5, 1, 2), dice.uniform(0, 0.3, 1, 1)], -1)
    shift = dice.uniform(0, 1, count, 1) ** 2 * dice.uniform(-0.7, 0.7, count, 3)
    target = target + apart[:, None] * shift * distance[..., None] / (2 * zoom[..., None])
    centre = target + distance[..., None] * to_camera
    centre[..., 2] = torch.maximum(centre[..., 2], scenes.heights.amax((1, 2))[:, None] + 0.15)
    roll = _draw_roll(dice, 1) * 0.5 + apart * _draw_roll(dice, count)

    forward = F.normalize(target - centre, dim=-1)
    right = F.normalize(torch.linalg.cross(forward, scenes.up[:, None].expand_as(forward)), dim=-1)
    down = torch.linalg.cross(forward, right)
    cos, sin = roll.cos()[..., None], roll.sin()[..., None]
    R = torch.stack([cos * right + sin * down, cos * down - sin * right, forward], dim=-2).float()
    t = -(R.double() @ centre[..., None])[..., 0]
    K = torch.zeros(len(dice), count, 3, 3, dtype=torch.float64)
    K[..., 0, 0] = K[..., 1, 1] = zoom * max(height, width)
    K[..., 0, 2], K[..., 1, 2], K[..., 2, 2] = (width - 1) / 2, (height - 1) / 2, 1
    return Views(K.float().double(), R.double(), t.float().double())


def _draw_roll(dice: Dice, *shape: int) -> Tensor:
    """Draw rotations about the optical axis: mostly moderate, sometimes arbitrary."""
    usual = 0.25 * dice.normal(*shape)
    large = torch.where(dice.chance(0.3, *shape), dice.uniform(-math.pi, math.pi, *shape), 4 * usual)
    return torch.where(dice.chance(0.2, *shape), large, usual)


def choose_views(
    scenes: Scenes, candidates: Views, wanted: Float[Tensor, " s"], count: int, height: int, width: int
) -> Views:
    """Choose `count` cameras per scene, with an overlap of MIN_OVERLAP to MAX_OVERLAP in each pair.

    Greedy, from the first candidate that is not blocked: of the admissible cameras, the next is the one whose direction
    to the middle of the scene differs from the chosen ones by an angle closest to `wanted`. If none is admissible, the
    next is the one that violates the limits least.
    wanted: angle in radians.
    """
    overlap, nearest = measure_overlap(scenes, candidates, height, width)
    S, C = nearest.shape
    rows = torch.arange(S, device=nearest.device)
    excess = (MIN_OVERLAP - overlap).clamp(min=0) + (overlap - MAX_OVERLAP).clamp(min=0)
    blocked = (nearest < _NEAREST).to(overlap.dtype)
    direction = F.normalize(candidates.centres, dim=-1)
    angles = torch.acos((direction @ direction.mT).clamp(-1, 1)).to(overlap.dtype)
    chosen = [torch.argmax((1 - blocked) * torch.linspace(1, 0.5, C, device=nearest.device), dim=1)]
    apart, worst = angles[rows, chosen[0]], excess[rows, chosen[0]] + blocked
    while len(chosen) < count:
        for index in chosen:
            worst[rows, index] = torch.inf
        chosen.append(torch.argmin(20 * worst + (apart - wanted[:, None]).abs(), dim=1))
        apart = torch.maximum(apart, angles[rows, chosen[-1]])
        worst = torch.maximum(worst, excess[rows, chosen[-1]])
    return candidates.pick(torch.stack(chosen, 1))


def measure_overlap(
    scenes: Scenes, views: Views, height: int, width: int
) -> tuple[Float[Tensor, "s v v"], Float[Tensor, "s v"]]:
    """Measure overlaps and nearest depths of views.

    The overlap of two views is the fraction of pixels of one that the other also sees, as geometric mean over both
    directions. It is measured on a coarse grid, by tracing the other camera's ray to each point.
    """
    S, V = views.t.shape[:2]
    device = views.t.device
    ys, xs = torch.meshgrid(
        (torch.arange(_GRID, device=device, dtype=torch.float64) + 0.5) / _GRID * height - 0.5,
        (torch.arange(_GRID, device=device, dtype=torch.float64) + 0.5) / _GRID * width - 0.5,
        indexing="ij",
    )
    pixels = torch.stack([xs.flatten(), ys.flatten()]).expand(S, V, 2, -1)
    planes = visible_planes(scenes, views)
    hits = trace(scenes, views, planes, pixels[..., None])
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[:, :, :1])], dim=2)
    points = torch.linalg.solve(views.K, homogeneous) * hits.depth[:, :, None]
    points = (views.R.mT @ (points - views.t[..., None])).transpose(1, 2).reshape(S, 1, 3, -1)
    seen = views.K @ (views.R @ points + views.t[..., None])  # (s, v, 3, v * m): all points in every view
    depth = seen[:, :, 2]
    at = seen[:, :, :2] / seen[:, :, 2:].clamp(min=1e-6)
    limit = torch.tensor([width - 0.5, height - 0.5], device=device, dtype=at.dtype)[:, None]
    inside = ((at > -0.5) & (at < limit)).all(2) & (depth > 0)
    found = trace(scenes, views, planes, at.clamp(-1, max(height, width))[..., None]).depth
    shared = inside & ((found - depth).abs() < 1e-3 * depth)
    share = shared.view(S, V, V, -1).float().mean(-1)
    nearest = torch.where(hits.depth > 0, hits.depth, torch.inf).amin(2)
    return (share * share.mT).sqrt(), nearest
