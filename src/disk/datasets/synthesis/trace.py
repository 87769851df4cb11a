"""Traces rays of pinhole cameras: exact depth of rectangles and of the relief, batched on any device.

A rectangle with centre c and unit axes a, b is seen at pixel p if z (K^-1 p) = [a b c] (u, v, 1), all in the camera's
frame. Hence (u/z, v/z, 1/z) = [a b c]^-1 K^-1 p is linear in p. The nearest rectangle has the largest 1/z among those
with |u/z| <= (1/z) half, which needs no division.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from disk.blocks import rows_at_once
from disk.datasets.synthesis.relief import Relief
from disk.datasets.synthesis.scene import Scenes
from disk.shapes import Float, Int, Tensor

_EDGE_ON = 20.0  # tangent of the angle to a plane's normal above which depth is unknown: float32 is too coarse
_AT_ONCE = {"cpu": 1 << 18, "other": 1 << 28}  # numbers per temporary, which fits in a CPU's cache, or takes 1 GB


@dataclass(frozen=True)
class Views:
    """V cameras for each of S scenes, in float64; x_cam = R x_world + t."""

    K: Float[Tensor, "s v 3 3"]
    R: Float[Tensor, "s v 3 3"]
    t: Float[Tensor, "s v 3"]

    @property
    def centres(self) -> Float[Tensor, "s v 3"]:
        """Camera centres in world coordinates."""
        return -(self.R.mT @ self.t[..., None])[..., 0]

    def to(self, device: torch.device | str) -> Views:
        """Copy to another device."""
        return Views(self.K.to(device), self.R.to(device), self.t.to(device))

    def pick(self, index: Int[Tensor, "s w"]) -> Views:
        """Select some of each scene's cameras."""
        rows = torch.arange(len(index), device=index.device)[:, None]
        return Views(self.K[rows, index], self.R[rows, index], self.t[rows, index])


@dataclass(frozen=True)
class Hits:
    """First hits of rays.

    surface: index of the rectangle; 0, the main plane, also for the relief.
    slot: index of that rectangle among the view's planes.
    depth: z in the camera's frame; 0 if not found to full precision.
    height: world z of points on the relief; 0 for all others.
    """

    surface: Int[Tensor, "s v m"]
    slot: Int[Tensor, "s v m"]
    depth: Float[Tensor, "s v m"]
    height: Float[Tensor, "s v m"]


@dataclass(frozen=True)
class Planes:
    """The P rectangles that each view may see.

    index: indices of the rectangles.
    maps: maps from pixels (x, y, 1) to (u/z, v/z, 1/z).
    half: half the size of the rectangles along u and v.
    """

    index: Int[Tensor, "s v p"]
    maps: Float[Tensor, "s v p 3 3"]
    half: Float[Tensor, "s v p 2"]


def visible_planes(scenes: Scenes, views: Views) -> Planes:
    """Select the rectangles each view may see: all but the back face of each pair of opposite box faces."""
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
    # a plane through the camera centre is seen as a line; move it slightly away
    volume = torch.where(volume.abs() < 1e-6, 1e-6, volume)
    inverse = torch.stack([bc, ca, ab], dim=-2) / volume[..., None, None]
    return Planes(index, inverse @ torch.linalg.inv(views.K)[:, :, None], scenes.half[rows, index])


def trace(scenes: Scenes, views: Views, planes: Planes, pixels: Float[Tensor, "s v 2 g k"]) -> Hits:
    """Find the first hits of the rays through pixels.

    pixels: (x, y) in g groups of k neighbours, for speed; k may be 1.
    """
    S, V, _, G, k = pixels.shape
    P = planes.index.shape[2]
    scale = torch.cat([1 / planes.half, torch.ones_like(planes.half[..., :1])], -1)
    # rows: u/z of all planes, v/z of all, 1/z of all
    maps = (planes.maps * scale[..., None]).transpose(2, 3).reshape(S * V, 3 * P, 3).float()
    flat = pixels.reshape(S * V, 2, G * k)
    chunk = rows_at_once(3 * P * S * V, flat.device, _AT_ONCE)
    slots = []
    for part in flat.float().split(chunk, dim=2):
        # not a matrix product, which a GPU may compute with fewer digits
        mapped = torch.addcmul(maps[:, :, 2:], maps[:, :, :1], part[:, :1]).addcmul_(maps[:, :, 1:2], part[:, 1:])
        u, v, w = mapped.unflatten(1, (3, P)).unbind(1)
        inside = torch.maximum(u.abs_(), v.abs_()) <= w
        slots.append((w * inside).max(1).indices.to(torch.int32))
    slot = torch.cat(slots, 1)
    # recompute 1/z of the nearest plane in full precision
    view = torch.arange(S * V, device=slot.device, dtype=torch.int32)[:, None] * P
    row = (slot + view).flatten()
    a, b, c = (column.index_select(0, row).view_as(slot) for column in planes.maps[..., 2, :].flatten(0, 2).T)
    depth = 1 / (a * flat[:, 0] + b * flat[:, 1] + c)
    focal = views.K[..., 0, 0].reshape(-1, 1)
    edge_on = (a * a + b * b) * (focal * depth) ** 2 > _EDGE_ON**2
    surface = planes.index.to(torch.int32).flatten().index_select(0, row).view_as(slot)
    height = torch.zeros_like(depth)
    if scenes.heights.any():
        ray_of = (views.R.mT @ torch.linalg.inv(views.K)).flatten(0, 1)
        relief = Relief(scenes.heights, views.centres.flatten(0, 1), ray_of)
        index, z, z_world = relief.first_hits(pixels.flatten(0, 1), depth)
        depth.view(-1)[index], height.view(-1)[index], edge_on.view(-1)[index] = z, z_world, False
        surface.view(-1)[index] = slot.view(-1)[index] = 0
    depth = torch.where(edge_on, 0.0, depth)
    return Hits(*(x.view(S, V, G * k) for x in (surface, slot, depth.float(), height.float())))
