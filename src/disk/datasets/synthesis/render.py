"""From hits of rays to images: materials, texture lookup, light, and soft edges."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from disk.datasets.synthesis.scene import GRID, REACH, Dice, Scenes, interpolate, to_cells
from disk.datasets.synthesis.textures import PhotoStore, lookup
from disk.datasets.synthesis.trace import Hits, Views, trace, visible_planes
from disk.shapes import Float, Int, Tensor

_MAX_MAGNIFICATION = 1.5


@dataclass(frozen=True)
class Materials:
    """What each of the scenes' rectangles is covered with.

    photo: index of the photograph. turn: angle of the photo's y axis against the rectangle's u axis.
    fineness: texels per pixel where the surface comes nearest to a camera. origin: texel at the centre.
    """

    photo: Int[Tensor, "s q"]
    turn: Float[Tensor, "s q"]
    fineness: Float[Tensor, "s q"]
    origin: Float[Tensor, "s q 2"]

    def to(self, device: torch.device | str) -> Materials:
        """The same materials on another device."""
        return Materials(*(x.to(device) for x in vars(self).values()))


def draw_materials(dice: Dice, scenes: Scenes, store: PhotoStore) -> Materials:
    """Random photographs for all surfaces of scenes on the CPU; the faces of a box share one."""
    S, Q = scenes.centre.shape[:2]
    boxes = (Q - scenes.fixed) // 6
    order = torch.rand(S, max(len(store), scenes.fixed + boxes), generator=dice.generator).argsort(1)
    photo = order[:, : scenes.fixed + boxes] % len(store)
    photo = torch.cat([photo[:, : scenes.fixed], photo[:, scenes.fixed :].repeat_interleave(6, 1)], 1)
    # photos stand upright on surfaces that are not level: their y axis along what is down there
    down = -(scenes.axes @ scenes.up[:, None, :, None])[..., 0]
    upright = torch.atan2(down[..., 1], down[..., 0])
    askew = 0.15 * dice.normal(S, Q)
    turn = torch.where(dice.chance(0.2, S, Q), dice.uniform(-torch.pi, torch.pi, S, Q), upright + askew)
    origin = dice.uniform(0, 1, S, Q, 2) * store.sizes.cpu()[photo]
    return Materials(photo, turn, dice.log_uniform(1 / _MAX_MAGNIFICATION, 1.6, S, Q), origin)


def render(
    scenes: Scenes, views: Views, materials: Materials, store: PhotoStore, height: int, width: int
) -> tuple[Float[Tensor, "s v 3 h w"], Float[Tensor, "s v h w"]]:
    """Images in [0, 1] and depths (0 = unknown) of all views."""
    S, V = views.t.shape[:2]
    device = views.t.device
    ys, xs = torch.meshgrid(
        torch.arange(height, device=device, dtype=torch.float64),
        torch.arange(width, device=device, dtype=torch.float64),
        indexing="ij",
    )
    pixels = torch.stack([xs.flatten(), ys.flatten()])
    planes = visible_planes(scenes, views)
    hits = trace(scenes, views, planes, pixels.expand(S, V, 2, -1), torch.float32)
    to_texels = _to_texels(scenes, views, materials, hits)

    # per view and plane: pixels to homogeneous texels
    rows = torch.arange(S, device=device)[:, None, None]
    maps = (to_texels[rows, planes.index] @ planes.maps).flatten(3).flatten(0, 2).float()
    first = torch.arange(S * V, device=device).view(S, V, 1) * planes.index.shape[2]
    m = maps.T.contiguous()[:, (hits.slot + first).flatten()]  # (9, n)
    x, y = pixels.float().repeat(1, S * V)
    tx, ty, w = (m[k] * x + m[k + 1] * y + m[k + 2] for k in (0, 3, 6))
    texel = torch.stack([tx, ty]) / w
    tx, ty = texel
    jacobian = torch.stack([m[0] - tx * m[6], m[1] - tx * m[7], m[3] - ty * m[6], m[4] - ty * m[7]]) / w
    light = _brightness(scenes.outward, scenes.light[:, None])[rows, hits.surface].flatten()

    bumps = torch.nonzero(hits.height.flatten() > 0)[:, 0]
    if len(bumps):
        image = bumps // (height * width)
        position, change, normal = _on_relief(scenes, views, hits, bumps, image, x[bumps], y[bumps])
        a, b, ox, c, d, oy = to_texels[image // V, 0, :2].float().flatten(1).T
        texel[:, bumps] = torch.stack([a * position[0] + b * position[1] + ox, c * position[0] + d * position[1] + oy])
        (px, py), (qx, qy) = change
        jacobian[:, bumps] = torch.stack([a * px + b * qx, a * py + b * qy, c * px + d * qx, c * py + d * qy])
        light[bumps] = _brightness(normal, scenes.light[image // V].float())

    photo = materials.photo[rows, hits.surface].flatten()
    colour = lookup(store, photo, texel, jacobian) * light
    images = colour.view(3, S, V, height, width).permute(1, 2, 0, 3, 4).clamp(0, 1)
    images = _soften_edges(images, hits.surface.view(S, V, height, width))
    return images, hits.depth.view(S, V, height, width)


def _to_texels(scenes: Scenes, views: Views, materials: Materials, hits: Hits) -> Float[Tensor, "s q 3 3"]:
    """Maps from (u, v, 1) on each rectangle to texels (x, y, 1).

    Where it comes nearest to a camera, a pixel spans `fineness` texels of a surface.
    """
    nearness = views.K[..., 0, 0, None] / torch.where(hits.depth > 0, hits.depth, torch.inf)
    finest = torch.zeros(scenes.centre.shape[:2], device=nearness.device, dtype=nearness.dtype)
    finest.scatter_reduce_(1, hits.surface.flatten(1), nearness.flatten(1), "amax")
    density = torch.where(finest > 0, finest, 100.0) * materials.fineness
    cos, sin = materials.turn.cos() * density, materials.turn.sin() * density
    # not mirrored when seen from outside
    side = (torch.linalg.cross(*scenes.axes.unbind(2)) * scenes.outward).sum(-1).sign()
    ox, oy = materials.origin.unbind(-1)
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    rows = [-sin * side, cos * side, ox, cos, sin, oy, zero, zero, one]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def _on_relief(
    scenes: Scenes, views: Views, hits: Hits, at: Tensor, image: Tensor, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """World x, y (2, n) of hits on the relief, their change per pixel (2, 2, n), and unit normals (n, 3).

    The change is that of the point where the ray meets the tangent plane (Igehy, "Tracing ray differentials", 1999).
    """
    ray_of = (views.R.mT @ torch.linalg.inv(views.K)).flatten(0, 1).flatten(1).float().T.contiguous()[:, image]
    rx, ry, rz = (ray_of[k] * x + ray_of[k + 1] * y + ray_of[k + 2] for k in (0, 3, 6))
    depth = hits.depth.flatten()[at]
    # unknown depths get one that shows the right place nearly
    centre = views.centres.flatten(0, 1).float().T.contiguous()[:, image]
    depth = torch.where(depth > 0, depth, (hits.height.flatten()[at] - centre[2]) / rz)
    position = centre[:2] + depth * torch.stack([rx, ry])
    cells = to_cells(position)
    cell = 2 * REACH / (GRID - 1)
    gy, gx = (g.float() / cell for g in torch.gradient(scenes.heights, dim=(1, 2)))
    scene = image // views.t.shape[1]
    sx, sy = -interpolate(gx, scene, cells), -interpolate(gy, scene, cells)
    facing = sx * rx + sy * ry + rz
    facing = facing.clamp(max=-1e-3)
    change = []
    for ex, ey, ez in (ray_of[0::3], ray_of[1::3]):
        along = (sx * ex + sy * ey + ez) / facing
        change.append(torch.stack([ex - along * rx, ey - along * ry]) * depth)
    normal = torch.stack([sx, sy, torch.ones_like(sx)], -1)
    return position, torch.stack(change, 1), F.normalize(normal, dim=-1)


def _brightness(normal: Float[Tensor, "*n 3"], light: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n"]:
    """Ambient and diffuse light on surfaces, 1 where they face +z."""
    lit = 0.5 + 0.7 * (normal * light).sum(-1).clamp(min=0)
    return (lit / (0.5 + 0.7 * light[..., 2])).clamp(max=1.25).float()


def _soften_edges(images: Tensor, surface: Tensor) -> Tensor:
    """A 3x3 binomial filter where two surfaces meet, so that outlines are no staircases."""
    edge = torch.zeros_like(surface, dtype=torch.bool)
    across = surface[..., 1:] != surface[..., :-1]
    along = surface[..., 1:, :] != surface[..., :-1, :]
    edge[..., 1:] |= across
    edge[..., :-1] |= across
    edge[..., 1:, :] |= along
    edge[..., :-1, :] |= along
    padded = F.pad(images.flatten(0, 1), (1, 1, 1, 1), mode="replicate").unflatten(0, images.shape[:2])
    rows = (padded[..., 2:, :] + padded[..., :-2, :] + 2 * padded[..., 1:-1, :]) / 4
    soft = (rows[..., 2:] + rows[..., :-2] + 2 * rows[..., 1:-1]) / 4
    return torch.where(edge[:, :, None], soft, images)
