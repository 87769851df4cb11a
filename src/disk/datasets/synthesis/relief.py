"""Reliefs: random height fields over the main plane, and the first hits of rays on them.

A height field is bilinear between grid points. Rays are sphere-traced (Hart, "Sphere tracing", 1996) with the steepest
slope as Lipschitz bound, so that they do not step over ridges, then refined by Newton's method. For tracing, the
heights of all scenes form one volume, with one scene per slice, so that one call interpolates them for all rays: on a
GPU, kernel launches dominate the run time.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from disk.datasets.synthesis.dice import Dice
from disk.shapes import Float, Int, Tensor

GRID = 96  # heights per side
REACH = 2.4  # the relief ends at |x|, |y| = REACH, where its height is 0
_MAX_SLOPE = 1.7
# steps of a group of rays, of each ray, and of the few rays that have not converged by then
_GROUP_STEPS, _STEPS, _LATE_STEPS = 12, 4, 40
_NEWTON_STEPS, _NEWTON_STEPS64 = 2, 1  # in float32, then in float64
_NEAR = 0.01  # height above the relief below which Newton's method is used
_EDGE_ON = 0.03  # minimum rate at which a ray approaches the relief, as a fraction of its upper bound
_PRECISION = 5e-7  # maximum relative depth error of a valid hit


def draw_heights(dice: Dice) -> Float[Tensor, "s g g"]:
    """Draw smooth bumps, ridges or terraces of three octaves of noise; 0 at the rim, rows along y."""
    total = torch.zeros(len(dice), 1, GRID, GRID, dtype=torch.float64)
    ridged = dice.chance(0.35, 1, 1, 1)
    for cells, amplitude in ((5, 1.0), (10, 0.45), (20, 0.2)):
        noise = dice.normal(1, cells, cells)
        octave = F.interpolate(noise, (GRID, GRID), mode="bicubic", align_corners=True)
        total += amplitude * torch.where(ridged, 1 - 2 * octave.abs(), octave)
    low, high = total.amin((2, 3), keepdim=True), total.amax((2, 3), keepdim=True)
    relief = (total - low) / (high - low)
    terraced = relief + 0.8 * torch.sin(relief * (8 * math.pi)) / (8 * math.pi)
    relief = torch.where(dice.chance(0.3, 1, 1, 1), terraced, relief)
    # the outermost cells are level, like everything beyond them
    rim = (5 - 5 * torch.linspace(-1, 1, GRID, dtype=torch.float64).abs() - 0.25).clamp(0, 1)
    rim = rim * rim * (3 - 2 * rim)
    heights = (relief * rim * rim[:, None] * dice.log_uniform(0.15, 0.7, 1, 1, 1))[:, 0]
    return heights * (_MAX_SLOPE / steepest(heights)).clamp(max=1)[:, None, None]


def steepest(heights: Float[Tensor, "s g g"]) -> Float[Tensor, " s"]:
    """Upper bound of the gradient norm of the bilinear surface."""
    dx = (heights[:, :, 1:] - heights[:, :, :-1]).abs()
    dy = (heights[:, 1:] - heights[:, :-1]).abs()
    dx, dy = torch.maximum(dx[:, 1:], dx[:, :-1]), torch.maximum(dy[:, :, 1:], dy[:, :, :-1])
    return (dx.square() + dy.square()).amax((1, 2)).sqrt() * ((GRID - 1) / (2 * REACH))


def to_cells(xy: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Convert world coordinates to grid cells."""
    return (xy + REACH) * ((GRID - 1) / (2 * REACH))


def interpolate(
    grids: Float[Tensor, "s g g"], scene: Int[Tensor, " n"], at: Float[Tensor, "2 n"]
) -> Float[Tensor, " n"]:
    """Bilinear interpolation in one of several grids; constant beyond the rim.

    scene: which grid.
    at: (x, y) in cells.
    """
    return _bilinear(grids, scene, at)[0]


def _bilinear(grids: Tensor, scene: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The value, and the terms of its gradient: change along y, change along x of the cell's two rows, and y."""
    side = grids.shape[-1]
    at = at.clamp(0, side - 1)
    corner = at.to(torch.int32).clamp_(max=side - 2)
    x, y = at - corner
    index = (scene.to(torch.int32) * side + corner[1]) * side + corner[0]
    flat = grids.flatten()
    near, far = flat.index_select(0, index), flat.index_select(0, index + side)
    near_dx = flat.index_select(0, index + 1) - near
    far_dx = flat.index_select(0, index + (side + 1)) - far
    near = torch.addcmul(near, near_dx, x)
    dy = torch.addcmul(far, far_dx, x) - near
    return torch.addcmul(near, dy, y), dy, near_dx, far_dx, y


class Relief:
    """The reliefs of S scenes, intersected with rays from several cameras per scene. All inputs are float64.

    heights: (s, g, g).
    origin: (i, 3), centres of the i = s * v cameras.
    ray_of: (i, 3, 3), R^T K^-1 of the cameras.
    """

    def __init__(self, heights: Tensor, origin: Tensor, ray_of: Tensor) -> None:
        self.cameras = len(origin) // len(heights)  # per scene
        self.heights = heights
        self.slope, self.peak = steepest(heights), heights.amax((1, 2))
        self.origin = origin.T.contiguous()
        self.ray_of = ray_of.flatten(1).T.contiguous()
        # maximum change of the height above the surface per pixel and unit of depth
        self.spread = ray_of[:, :, 0].norm(dim=1) * (1 + self.slope**2).sqrt().repeat_interleave(self.cameras)

    def first_hits(
        self, pixels: Float[Tensor, "i 2 g k"], last: Float[Tensor, "i m"]
    ) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Find the first hits on the relief of rays through pixels, before depth `last`.

        Returns indices into the flattened rays, and for those the depth (0 if not found to full precision) and the
        height. A ray that would reach the main plane always hits the relief.
        pixels: in g groups of k neighbours.
        """
        x, y = pixels.flatten(2).unbind(1)
        slant = self.ray_of[6:, :, None]
        end_z = self.origin[2, :, None] + last * (slant[0] * x + slant[1] * y + slant[2])
        # only rays that end below the peak can hit
        index = torch.nonzero((end_z < self.peak.repeat_interleave(self.cameras)[:, None]).flatten())[:, 0]
        if not len(index):
            return index, last.new_zeros(0), last.new_zeros(0)
        image = (index // last.shape[1]).to(torch.int32)
        rays = self._rays(image, x.flatten()[index], y.flatten()[index])
        end = last.flatten()[index]
        start = torch.minimum(self._approach(pixels, index), end)
        z, meets, known = _meet(rays, start, end, _STEPS)
        late = torch.nonzero(~known)[:, 0]
        if len(late):
            z[late], meets[late], known[late] = _meet(rays.pick(late), start[late], end[late], _LATE_STEPS)
        meets |= end_z.flatten()[index] < 1e-6
        height = rays.start[2] + z * rays.ray[2]
        depth = torch.where(known, z, 0.0)
        return index[meets], depth[meets], height[meets]

    def _approach(self, pixels: Tensor, index: Tensor) -> Float[Tensor, " n"]:
        """Depths up to which the cone of a ray's group is above the relief; `index` is into the flattened rays."""
        groups = torch.unique_consecutive(index // pixels.shape[3])
        image = (groups // pixels.shape[2]).to(torch.int32)
        x, y = pixels.transpose(0, 1).flatten(1, 2)[:, groups].unbind(0)  # (groups, k)
        middle = x.mean(1), y.mean(1)
        radius = ((x - middle[0][:, None]) ** 2 + (y - middle[1][:, None]) ** 2).amax(1).sqrt()
        rays = self._rays(image, *middle, spread=radius * self.spread.index_select(0, image))
        peak = self.peak[image // self.cameras]
        # start where the whole cone is below the peak; rays that stay above it are done
        z = (peak - rays.start[2]) / rays.ray[2].clamp(max=-1e-3)
        march = _March(rays)
        z = z.float()
        for _ in range(_GROUP_STEPS):
            z = torch.addcmul(z, march.above(z).clamp_(min=0), march.rate)
        starts = pixels.new_zeros(pixels.shape[0] * pixels.shape[2])
        starts[groups] = z.double()
        return starts[index // pixels.shape[3]]

    def _rays(self, image: Tensor, x: Tensor, y: Tensor, spread: Tensor | float = 0.0) -> _Rays:
        m = [column.index_select(0, image) for column in self.ray_of]
        scene = image // self.cameras
        ray = [m[k] * x + m[k + 1] * y + m[k + 2] for k in (0, 3, 6)]
        slope = self.slope.index_select(0, scene)
        ray[2] = ray[2] - spread
        speed = (slope * torch.hypot(ray[0], ray[1]) - ray[2]).clamp_(min=1e-6)
        return _Rays(self.heights, scene, self.origin.index_select(1, image), torch.stack(ray), speed)


def _meet(rays: _Rays, z: Tensor, end: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """First depths from z on where rays hit the relief, whether before `end`, and whether the result is reliable."""
    march = _March(rays)
    z, last = z.float(), end.float()
    gap = march.above(z)
    for _ in range(steps):
        z = torch.minimum(torch.addcmul(z, gap, march.rate), last)
        gap = march.above(z)
    meets, near = z < last, gap < _NEAR
    single = rays.to(torch.float32)
    for _ in range(_NEWTON_STEPS):
        z, _ = single.newton(z)
    z = z.double()
    for _ in range(_NEWTON_STEPS64):
        z, falling = rays.newton(z)
    # on slopes seen edge-on, float32 depth is too coarse
    known = near & (rays.above(z).abs() < _PRECISION * z * falling) & (falling > _EDGE_ON * rays.speed)
    return z, meets, known | ~meets


class _March:
    """Marching in float32: height of ray points above the relief, to a few millionths, and a safe step per height."""

    def __init__(self, rays: _Rays) -> None:
        scenes = len(rays.heights)
        # (x, y, scene) from -1 to 1, as grid_sample expects
        place = rays.scene.to(rays.start.dtype) * (2 / max(scenes - 1, 1)) - 1
        self.volume = rays.heights.float()[None, None]
        self.first = torch.stack([rays.start[0] / REACH, rays.start[1] / REACH, place], -1).float()
        self.along = F.pad(rays.ray[:2].T / REACH, (0, 1)).float()
        self.start, self.fall = rays.start[2].float(), rays.ray[2].float()
        self.rate = (1 / rays.speed).float()

    def above(self, z: Tensor) -> Tensor:
        """Height above the relief."""
        at = torch.addcmul(self.first, self.along, z[:, None])
        ground = F.grid_sample(self.volume, at[None, None, None], padding_mode="border", align_corners=True)
        return torch.addcmul(self.start, self.fall, z) - ground.flatten()


class _Rays:
    """Points at depth z along rays, and their height above the relief minus `spread` times z."""

    def __init__(self, heights: Tensor, scene: Tensor, start: Tensor, ray: Tensor, speed: Tensor) -> None:
        self.heights, self.scene, self.start, self.ray, self.speed = heights, scene, start, ray, speed
        self.first = to_cells(start[:2])
        self.along = ray[:2] * ((GRID - 1) / (2 * REACH))

    def to(self, dtype: torch.dtype) -> _Rays:
        """Convert to another precision."""
        return _Rays(self.heights.to(dtype), self.scene, *(x.to(dtype) for x in (self.start, self.ray, self.speed)))

    def pick(self, index: Tensor) -> _Rays:
        """Select some of the rays."""
        return _Rays(self.heights, self.scene[index], self.start[:, index], self.ray[:, index], self.speed[index])

    def above(self, z: Tensor) -> Tensor:
        """Height above the relief."""
        ground = interpolate(self.heights, self.scene, torch.addcmul(self.first, self.along, z))
        return torch.addcmul(self.start[2], self.ray[2], z) - ground

    def newton(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Take a Newton step towards the relief; also returns how fast the height above it falls with z."""
        ground, dy, near_dx, far_dx, y = _bilinear(self.heights, self.scene, torch.addcmul(self.first, self.along, z))
        dx = torch.lerp(near_dx, far_dx, y)
        falling = dx * self.along[0] + dy * self.along[1] - self.ray[2]
        gap = torch.addcmul(self.start[2], self.ray[2], z) - ground
        return z + (gap / torch.where(falling > 0.01, falling, self.speed)).clamp_(-_NEAR, _NEAR), falling
