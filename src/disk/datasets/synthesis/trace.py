"""Rays of pinhole cameras against scenes: exact depth of rectangles and of the relief, batched on any device.

A rectangle with centre c and unit axes a, b is seen at pixel p where z (K^-1 p) = [a b c] (u, v, 1), all in the
camera's frame. So (u/z, v/z, 1/z) = [a b c]^-1 K^-1 p is linear in p, and the nearest rectangle is the one
with the largest 1/z among those with |u/z| <= (1/z) half: no division, one matrix product for all pixels.
The relief is sphere-traced (Hart 1996) with its steepness as the Lipschitz bound, so that no ridge is stepped
over, then polished by the secant method.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from disk.datasets.synthesis.scene import Scenes, interpolate, to_cells
from disk.shapes import Float, Int, Tensor

_STEPS = 24
_SECANT_STEPS = 4
_CHUNK = 1 << 18  # numbers per temporary on a CPU, to stay in its cache


@dataclass(frozen=True)
class Views:
    """V cameras for each of S scenes, in float64; x_cam = R x_world + t."""

    K: Float[Tensor, "s v 3 3"]
    R: Float[Tensor, "s v 3 3"]
    t: Float[Tensor, "s v 3"]

    @property
    def centres(self) -> Float[Tensor, "s v 3"]:
        """Camera centres in the world."""
        return -(self.R.mT @ self.t[..., None])[..., 0]

    def to(self, device: torch.device | str) -> Views:
        """The same cameras on another device."""
        return Views(self.K.to(device), self.R.to(device), self.t.to(device))

    def pick(self, index: Int[Tensor, "s w"]) -> Views:
        """Some of each scene's cameras."""
        rows = torch.arange(len(index), device=index.device)[:, None]
        return Views(self.K[rows, index], self.R[rows, index], self.t[rows, index])


@dataclass(frozen=True)
class Hits:
    """What the rays meet first.

    surface: index of the rectangle; 0, the main plane, also for the relief.
    slot: index of that rectangle in the view's planes.
    depth: z in the camera's frame, 0 where it could not be found to full precision.
    height: z in the world of points on the relief, 0 for all others.
    """

    surface: Int[Tensor, "s v m"]
    slot: Int[Tensor, "s v m"]
    depth: Float[Tensor, "s v m"]
    height: Float[Tensor, "s v m"]


@dataclass(frozen=True)
class Planes:
    """The P rectangles each view may see and the map from pixels (x, y, 1) to (u/z, v/z, 1/z) of each."""

    index: Int[Tensor, "s v p"]
    maps: Float[Tensor, "s v p 3 3"]
    half: Float[Tensor, "s v p 2"]


def visible_planes(scenes: Scenes, views: Views) -> Planes:
    """Of two opposite faces of a box only the one turned to the camera; everything else."""
    S, V = views.t.shape[:2]
    rows = torch.arange(S, device=views.t.device)[:, None, None]
    centres = views.centres
    faces = slice(scenes.fixed, scenes.centre.shape[1], 2)
    towards = centres[:, :, None] - scenes.centre[:, None, faces]
    is_back = (towards * scenes.outward[:, None, faces]).sum(-1) < 0
    faces_index = torch.arange(scenes.fixed, scenes.centre.shape[1], 2, device=rows.device) + is_back.long()
    fixed = torch.arange(scenes.fixed, device=rows.device).expand(S, V, -1)
    index = torch.cat([fixed, faces_index], dim=2)
    axes = scenes.axes[rows, index] @ views.R[:, :, None].mT
    a, b = axes.unbind(-2)
    c = (scenes.centre[rows, index][..., None, :] @ views.R[:, :, None].mT)[..., 0, :] + views.t[:, :, None]
    bc, ca, ab = torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)
    volume = (a * bc).sum(-1)
    # a plane through the camera's centre is seen as a line; pushed away a little
    volume = torch.where(volume.abs() < 1e-6, 1e-6, volume)
    inverse = torch.stack([bc, ca, ab], dim=-2) / volume[..., None, None]
    return Planes(index, inverse @ torch.linalg.inv(views.K)[:, :, None], scenes.half[rows, index])


def trace(
    scenes: Scenes, views: Views, planes: Planes, pixels: Float[Tensor, "s v 2 m"], dtype: torch.dtype
) -> Hits:
    """First hits of the rays through given pixels (x, y). `dtype` is that of most arithmetic and of depth."""
    S, V, _, M = pixels.shape
    P = planes.index.shape[2]
    scale = torch.cat([1 / planes.half, torch.ones_like(planes.half[..., :1])], -1)
    # rows: u/z of all planes, v/z of all, 1/z of all
    maps = (planes.maps * scale[..., None]).transpose(2, 3).reshape(S * V, 3 * P, 3).to(dtype)
    flat = pixels.reshape(S * V, 2, M)
    chunk = M if flat.device.type != "cpu" else max(1, _CHUNK // (3 * P * S * V))
    slots = []
    for part in flat.split(chunk, dim=2):
        u, v, w = (maps[:, :, :2] @ part.to(dtype) + maps[:, :, 2:]).unflatten(1, (3, P)).unbind(1)
        inside = torch.maximum(u.abs_(), v.abs_()) <= w
        slots.append((w * inside).max(1).indices)
    slot = torch.cat(slots, 1)
    # 1/z once more for the nearest plane alone, exactly
    row = torch.gather(planes.maps[..., 2, :].reshape(S * V, P, 3), 1, slot[..., None].expand(-1, -1, 3))
    depth = 1 / (row[..., 0] * flat[:, 0] + row[..., 1] * flat[:, 1] + row[..., 2])
    surface = torch.gather(planes.index.reshape(S * V, P), 1, slot)
    height = torch.zeros_like(depth)
    if scenes.heights.any():
        _trace_relief(scenes, views, flat, surface, slot, depth, height, dtype)
    shape = (S, V, M)
    return Hits(*(x.view(shape) for x in (surface, slot, depth.to(dtype), height.to(dtype))))


def _trace_relief(
    scenes: Scenes,
    views: Views,
    pixels: Tensor,
    surface: Tensor,
    slot: Tensor,
    depth: Tensor,
    height: Tensor,
    dtype: torch.dtype,
) -> None:
    """Moves the hits of rays that meet the relief on their way; all arguments (S * V, m), in place."""
    V = views.t.shape[1]
    origin = views.centres.flatten(0, 1)
    ray_of = (views.R.mT @ torch.linalg.inv(views.K)).flatten(0, 1)
    top = scenes.heights.amax((1, 2)).repeat_interleave(V)
    # only rays that go down and end below the highest point
    down = ray_of[:, 2, None, :2] @ pixels + ray_of[:, 2, None, 2:]
    end_z = origin[:, 2, None] + depth * down[:, 0]
    image, at = torch.nonzero((end_z < top[:, None]) & (top[:, None] > 0), as_tuple=True)
    if not len(image):
        return
    xy = pixels[image, :, at]
    m = ray_of[image]
    ray = m[:, :, 0] * xy[:, :1] + m[:, :, 1] * xy[:, 1:] + m[:, :, 2]
    start = origin[image]
    end = depth[image, at]
    scene = image // V
    begin = (top[image] - start[:, 2]) / ray[:, 2]

    field = _Field(scenes.heights, scene, start, ray, dtype)
    speed = -ray[:, 2] + scenes.slope[scene] * ray[:, :2].norm(dim=1)
    last, rate = end.to(dtype), 1 / speed.to(dtype)
    z = begin.to(dtype)
    before, gap_before = z, field.gap(z)
    gap = gap_before
    for _ in range(_STEPS):
        before, gap_before = z, gap
        z = torch.minimum(z + gap * rate, last)
        gap = field.gap(z)
    hit = (z < last) | (surface[image, at] == 0)

    field = _Field(scenes.heights, scene, start, ray, torch.float64)
    z, before, gap_before = z.double(), before.double(), gap_before.double()
    gap = field.gap(z)
    falling = (gap_before - gap) / (z - before)
    for _ in range(_SECANT_STEPS):
        falling = torch.where(falling.isfinite() & (falling > 0), falling, speed)
        step = (gap / falling).clamp(-0.05, 0.05)
        z = z + step
        new_gap = field.gap(z)
        falling, gap = (gap - new_gap) / step, new_gap
    # an error in height moves the point along the ray by about 1 / falling times as much
    good = gap.abs() < 2e-7
    depth[image, at] = torch.where(hit, torch.where(good, z, 0.0), end)
    height[image, at] = torch.where(hit, start[:, 2] + z * ray[:, 2], 0.0)
    surface[image, at] = torch.where(hit, 0, surface[image, at])
    slot[image, at] = torch.where(hit, 0, slot[image, at])


class _Field:
    """Height of rays above the relief as a function of depth."""

    def __init__(self, heights: Tensor, scene: Tensor, start: Tensor, ray: Tensor, dtype: torch.dtype) -> None:
        self.heights, self.scene = heights.to(dtype), scene.to(torch.int32)
        self.start = to_cells(start[:, :2]).to(dtype).T.contiguous()
        self.ray = (to_cells(ray[:, :2]) - to_cells(torch.zeros_like(ray[:, :2]))).to(dtype).T.contiguous()
        self.start_z, self.ray_z = start[:, 2].to(dtype), ray[:, 2].to(dtype)

    def gap(self, z: Tensor) -> Tensor:
        ground = interpolate(self.heights, self.scene, torch.addcmul(self.start, self.ray, z))
        return torch.addcmul(self.start_z, self.ray_z, z) - ground
