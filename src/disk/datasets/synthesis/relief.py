"""Reliefs: random height fields over the main plane, and where rays meet them first.

A height field is bilinear between grid points. Rays are sphere-traced (Hart, "Sphere tracing", 1996) with the
steepest slope as Lipschitz bound, so that no ridge is stepped over, then polished by the secant method.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from disk.datasets.synthesis.dice import Dice
from disk.shapes import Float, Int, Tensor

GRID = 96  # heights along a side
REACH = 2.4  # the relief ends at |x|, |y| = REACH, where its height is 0
_MAX_SLOPE = 1.7
_GROUP_STEPS, _STEPS = 14, 6
_POLISH = ((torch.float32, 3), (torch.float64, 2))
_PRECISION = 2e-7  # of the height above the relief, where a hit counts as found


def draw_heights(dice: Dice, count: int) -> Float[Tensor, "s g g"]:
    """Smooth bumps, ridges or terraces of three octaves of noise, 0 at the rim, rows along y."""
    total = torch.zeros(count, 1, GRID, GRID, dtype=torch.float64)
    ridged = dice.chance(0.35, count, 1, 1, 1)
    for cells, amplitude in ((5, 1.0), (10, 0.45), (20, 0.2)):
        noise = dice.normal(count, 1, cells, cells)
        octave = F.interpolate(noise, (GRID, GRID), mode="bicubic", align_corners=True)
        total += amplitude * torch.where(ridged, 1 - 2 * octave.abs(), octave)
    low, high = total.amin((2, 3), keepdim=True), total.amax((2, 3), keepdim=True)
    relief = (total - low) / (high - low)
    terraced = relief + 0.8 * torch.sin(relief * (8 * math.pi)) / (8 * math.pi)
    relief = torch.where(dice.chance(0.3, count, 1, 1, 1), terraced, relief)
    rim = torch.linspace(-1, 1, GRID, dtype=torch.float64).abs().neg().add(1).mul(5).clamp(0, 1)
    rim = rim * rim * (3 - 2 * rim)
    heights = (relief * rim * rim[:, None] * dice.log_uniform(0.12, 0.6, count, 1, 1, 1))[:, 0]
    return heights * (_MAX_SLOPE / steepest(heights)).clamp(max=1)[:, None, None]


def steepest(heights: Float[Tensor, "s g g"]) -> Float[Tensor, " s"]:
    """A bound of the norm of the gradient of the bilinear surface."""
    dx = (heights[:, :, 1:] - heights[:, :, :-1]).abs()
    dy = (heights[:, 1:] - heights[:, :-1]).abs()
    dx, dy = torch.maximum(dx[:, 1:], dx[:, :-1]), torch.maximum(dy[:, :, 1:], dy[:, :, :-1])
    return (dx.square() + dy.square()).amax((1, 2)).sqrt() * ((GRID - 1) / (2 * REACH))


def to_cells(xy: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """World coordinates in cells of the grid."""
    return (xy + REACH) * ((GRID - 1) / (2 * REACH))


def interpolate(
    grids: Float[Tensor, "s g g"], scene: Int[Tensor, " n"], at: Float[Tensor, "2 n"]
) -> Float[Tensor, " n"]:
    """Bilinear interpolation at (x, y) in cells of one of several grids; constant beyond the rim."""
    side = grids.shape[-1]
    at = at.clamp(0, side - 1)
    corner = at.to(torch.int32).clamp_(max=side - 2)
    x, y = at - corner
    index = (scene.to(torch.int32) * side + corner[1]) * side + corner[0]
    flat = grids.flatten()
    near = torch.lerp(flat.index_select(0, index), flat.index_select(0, index + 1), x)
    far = torch.lerp(flat.index_select(0, index + side), flat.index_select(0, index + (side + 1)), x)
    return torch.lerp(near, far, y)


class Relief:
    """The reliefs of S scenes as met by rays from several cameras for each.

    heights (s, g, g); origin (i, 3) and ray_of (i, 3, 3), R^T K^-1, of i = s * v cameras; all in float64.
    """

    def __init__(self, heights: Tensor, origin: Tensor, ray_of: Tensor) -> None:
        self.cameras = len(origin) // len(heights)  # per scene
        self.heights = {dtype: heights.to(dtype) for dtype in (torch.float32, torch.float64)}
        self.slope, self.peak = steepest(heights), heights.amax((1, 2))
        self.origin = origin.T.contiguous()
        self.ray_of = ray_of.flatten(1).T.contiguous()
        # the most that the height above the surface differs one pixel aside, per depth
        self.spread = ray_of[:, :, 0].norm(dim=1) * (1 + self.slope**2).sqrt().repeat_interleave(self.cameras)

    def first_hits(
        self, pixels: Float[Tensor, "i 2 g k"], last: Float[Tensor, "i m"]
    ) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Where rays through pixels, in g groups of k neighbours, meet the relief before depth `last`.

        Returns indices into the rays flattened, and for those the depth (0 where it is not found to full
        precision) and the height. Rays that go on to the main plane always meet the relief.
        """
        x, y = pixels.flatten(2).unbind(1)
        slant = self.ray_of[6:, :, None]
        end_z = self.origin[2, :, None] + last * (slant[0] * x + slant[1] * y + slant[2])
        # only rays that end below the highest point
        index = torch.nonzero((end_z < self.peak.repeat_interleave(self.cameras)[:, None]).flatten())[:, 0]
        if not len(index):
            return index, last.new_zeros(0), last.new_zeros(0)
        image = (index // last.shape[1]).to(torch.int32)
        rays = _Rays(self, image, x.flatten()[index], y.flatten()[index])
        end = last.flatten()[index]
        z = torch.minimum(self._approach(pixels, index), end).float()
        end32 = end.float()
        above, rate = rays.above(torch.float32), (1 / rays.speed).float()
        gap = above(z)
        for _ in range(_STEPS):
            before, gap_before = z, gap
            z = torch.minimum(z + gap * rate, end32)
            gap = above(z)
        meets = (z < end32) | (end_z.flatten()[index] < 1e-6)
        falling = (gap_before - gap) / (z - before)
        for dtype, steps in _POLISH:
            above, speed = rays.above(dtype), rays.speed.to(dtype)
            z, falling = z.to(dtype), falling.to(dtype)
            gap = above(z)
            for _ in range(steps):
                falling = torch.where((falling > 0) & (falling < torch.inf), falling, speed)
                step = (gap / falling).clamp_(-0.05, 0.05)
                z = z + step
                new_gap = above(z)
                # a short step tells nothing about the slope
                falling = torch.where(step.abs() > 1e-5, (gap - new_gap) / step, falling)
                gap = new_gap
        height = rays.start[2] + z * rays.ray[2]
        depth = torch.where(gap.abs() < _PRECISION, z, 0.0)
        return index[meets], depth[meets], height[meets]

    def _approach(self, pixels: Tensor, index: Tensor) -> Float[Tensor, " n"]:
        """Depths that rays (indices into all flattened) reach safely: their group's cone is above the relief."""
        groups = torch.unique_consecutive(index // pixels.shape[3])
        image = (groups // pixels.shape[2]).to(torch.int32)
        x, y = pixels.transpose(0, 1).flatten(1, 2)[:, groups].unbind(0)  # (groups, k)
        middle = x.mean(1), y.mean(1)
        radius = ((x - middle[0][:, None]) ** 2 + (y - middle[1][:, None]) ** 2).amax(1).sqrt()
        rays = _Rays(self, image, *middle, spread=radius * self.spread.index_select(0, image))
        peak = self.peak[image // self.cameras]
        # where the whole cone is as low as the highest point; rays that stay above it are done
        z = ((peak - rays.start[2]) / rays.ray[2].clamp(max=-1e-3)).float()
        above, rate = rays.above(torch.float32), (1 / rays.speed).float()
        for _ in range(_GROUP_STEPS):
            z = z + (above(z) * rate).clamp_(min=0)
        starts = pixels.new_zeros(pixels.shape[0] * pixels.shape[2])
        starts[groups] = z.double()
        return starts[index // pixels.shape[3]]


class _Rays:
    """Points at depth z of rays, and their height above the relief less `spread` times z."""

    def __init__(self, relief: Relief, image: Tensor, x: Tensor, y: Tensor, spread: Tensor | float = 0.0) -> None:
        m = [column.index_select(0, image) for column in relief.ray_of]
        self.scene = image // relief.cameras
        self.relief = relief
        ray = [m[k] * x + m[k + 1] * y + m[k + 2] for k in (0, 3, 6)]
        slope = relief.slope.index_select(0, self.scene)
        ray[2] = ray[2] - spread
        self.speed = (slope * torch.hypot(ray[0], ray[1]) - ray[2]).clamp_(min=1e-6)
        self.ray = torch.stack(ray)
        self.start = relief.origin.index_select(1, image)

    def above(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """Height above the relief as a function of depth, in a precision."""
        start, ray = self.start.to(dtype), self.ray.to(dtype)
        heights = self.relief.heights[dtype]
        first = to_cells(start[:2])
        along = to_cells(ray[:2]) - to_cells(torch.zeros_like(ray[:2]))

        def gap(z: Tensor) -> Tensor:
            ground = interpolate(heights, self.scene, torch.addcmul(first, along, z))
            return torch.addcmul(start[2], ray[2], z) - ground

        return gap
