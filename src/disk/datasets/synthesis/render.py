"""Renders images from ray hits: texture lookup, lighting and soft edges."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from disk.datasets.synthesis.materials import Cover, Materials, brightness, texture_maps
from disk.datasets.synthesis.relief import GRID, REACH, interpolate, to_cells
from disk.datasets.synthesis.scene import Scenes
from disk.datasets.synthesis.textures import PhotoStore, lookup
from disk.datasets.synthesis.trace import Hits, Planes, Views, trace, visible_planes
from disk.shapes import Float, Int, Tensor

_COARSE = 24  # rays per side to find how near surfaces come
_BLOCK = 4  # side of the blocks of pixels traced together
_LEAP = 0.05  # relative depth difference that makes an edge
_CHUNK = 1 << 17  # pixels at a time on a CPU, so that temporaries fit in its cache
# on a GPU, as many as fit into a quarter of its free memory, which it shares with others: fewer kernel launches
_CHUNK_ON_GPU, _BYTES = 1 << 25, 600  # maximum number of pixels at a time, and bytes per pixel


def render(
    scenes: Scenes, views: Views, materials: Materials, store: PhotoStore, height: int, width: int
) -> tuple[Float[Tensor, "s v 3 h w"], Float[Tensor, "s v h w"]]:
    """Render images in [0, 1] and depths (0 = unknown) of all views."""
    S, V = views.t.shape[:2]
    device = views.t.device
    planes = visible_planes(scenes, views)
    border = _grid(
        torch.linspace(-0.5, height - 0.5, _COARSE, device=device, dtype=torch.float64),
        torch.linspace(-0.5, width - 0.5, _COARSE, device=device, dtype=torch.float64),
    )
    coarse = trace(scenes, views, planes, border.expand(S, V, 2, -1)[..., None])
    to_texels = texture_maps(scenes, views, materials, coarse)
    cover = Cover(materials.photo, to_texels, brightness(scenes.outward, scenes.light[:, None]))
    return render_covered(scenes, views, planes, cover, store, height, width)


def render_covered(
    scenes: Scenes, views: Views, planes: Planes, cover: Cover, store: PhotoStore, height: int, width: int
) -> tuple[Float[Tensor, "s v 3 h w"], Float[Tensor, "s v h w"]]:
    """The same as `render` with a given cover of the surfaces."""
    S, V = views.t.shape[:2]
    device = views.t.device
    shader = _Shader(scenes, views, planes, cover, store)
    # pixels in block order, padded to whole blocks
    rows, columns = -(-height // _BLOCK), -(-width // _BLOCK)
    pixels = _grid(
        torch.arange(rows * _BLOCK, device=device, dtype=torch.float64),
        torch.arange(columns * _BLOCK, device=device, dtype=torch.float64),
    )
    pixels = pixels.view(2, rows, _BLOCK, columns, _BLOCK).transpose(2, 3).reshape(2, -1, _BLOCK * _BLOCK)
    chunk = max(1, _pixels_at_once(device) // (S * V * _BLOCK * _BLOCK))
    colours, depths, surfaces = [], [], []
    for part in pixels.split(chunk, dim=1):
        hits = trace(scenes, views, planes, part.expand(S, V, 2, -1, -1))
        colours.append(shader.colours(part.flatten(1).float(), hits))
        depths.append(hits.depth)
        surfaces.append(hits.surface)

    def whole(parts: list[Tensor]) -> Tensor:
        blocks = torch.cat(parts, -1).unflatten(-1, (rows, columns, _BLOCK, _BLOCK))
        return blocks.transpose(-3, -2).flatten(-2).flatten(-3, -2)[..., :height, :width]

    images = whole(colours).permute(1, 2, 0, 3, 4).clamp(0, 1)
    depth = whole(depths)
    return _soften_edges(images, whole(surfaces), depth), depth


def _pixels_at_once(device: torch.device) -> int:
    if device.type == "cpu":
        return _CHUNK
    free, _ = torch.cuda.mem_get_info(device)
    return min(_CHUNK_ON_GPU, free // (4 * _BYTES))


class _Shader:
    """Computes colours of hits; everything that depends only on views and surfaces is in tables."""

    def __init__(
        self,
        scenes: Scenes,
        views: Views,
        planes: Planes,
        cover: Cover,
        store: PhotoStore,
    ) -> None:
        S, V, self.P = planes.index.shape
        self.S, self.V, self.Q = S, V, scenes.centre.shape[1]
        rows = torch.arange(S, device=views.t.device)[:, None, None]
        # maps from pixels to homogeneous texels, (9, s * v * p)
        maps = (cover.to_texels[rows, planes.index] @ planes.maps).flatten(0, 2)
        self.maps = maps.flatten(1).T.float().contiguous()
        self.light = cover.light.flatten()
        self.photo = cover.photo.to(torch.int32).flatten()
        self.store = store
        # for the relief
        self.on_main = cover.to_texels[:, 0, :2].flatten(1).T.float().contiguous()
        self.ray_of = (views.R.mT @ torch.linalg.inv(views.K)).flatten(0, 1).flatten(1).T.float().contiguous()
        self.centres = views.centres.flatten(0, 1).T.float().contiguous()
        cell = 2 * REACH / (GRID - 1)
        self.slopes = [g.float() / cell for g in torch.gradient(scenes.heights, dim=(2, 1))]
        self.sun = scenes.light.float()

    def colours(self, pixels: Float[Tensor, "2 m"], hits: Hits) -> Float[Tensor, "3 s v m"]:
        """Colours of the hits of all views at the same pixels (x, y)."""
        S, V = self.S, self.V
        views = torch.arange(S * V, device=pixels.device, dtype=torch.int32).view(S, V, 1)
        row = (hits.slot + views * self.P).flatten()
        m = [column.index_select(0, row) for column in self.maps]
        x, y = pixels.repeat(1, S * V)
        z = 1 / (m[6] * x + m[7] * y + m[8])
        tx, ty = (m[0] * x + m[1] * y + m[2]) * z, (m[3] * x + m[4] * y + m[5]) * z
        dx, dy = m[6] * z, m[7] * z
        jacobian = torch.stack([m[0] * z - tx * dx, m[1] * z - tx * dy, m[3] * z - ty * dx, m[4] * z - ty * dy])
        texel = torch.stack([tx, ty])
        surface = (hits.surface + views // V * self.Q).flatten()
        light = self.light.index_select(0, surface)
        bumps = torch.nonzero(hits.height.flatten())[:, 0]
        if len(bumps):
            image = (bumps // pixels.shape[1]).to(torch.int32)
            texel[:, bumps], jacobian[:, bumps], light[bumps] = self._relief(hits, bumps, image, x[bumps], y[bumps])
        photo = self.photo.index_select(0, surface)
        return (lookup(self.store, photo, texel, jacobian) * light).view(3, S, V, -1)

    def _relief(
        self, hits: Hits, at: Tensor, image: Tensor, x: Tensor, y: Tensor
    ) -> tuple[Float[Tensor, "2 n"], Float[Tensor, "4 n"], Float[Tensor, " n"]]:
        """Texels, their Jacobian with respect to the pixel, and brightness of hits on the relief.

        The Jacobian follows the intersection of the ray with the tangent plane (Igehy, "Tracing ray differentials",
        1999).
        """
        m = self.ray_of.index_select(1, image)
        rx, ry, rz = (m[k] * x + m[k + 1] * y + m[k + 2] for k in (0, 3, 6))
        cx, cy, cz = self.centres.index_select(1, image)
        depth = (hits.height.flatten()[at] - cz) / rz  # unlike hits.depth, also known where it is not exact
        px, py = cx + depth * rx, cy + depth * ry
        scene = image // self.V
        cells = to_cells(torch.stack([px, py]))
        sx, sy = (interpolate(slopes, scene, cells) for slopes in self.slopes)
        # bounded on surfaces seen edge-on, to show their local colour instead of the photo's average
        scale = depth / (rz - sx * rx - sy * ry).clamp(max=-0.1)
        change = []
        for ex, ey, ez in (m[0::3], m[1::3]):
            along = (ez - sx * ex - sy * ey) * scale
            change.append((ex * depth - along * rx, ey * depth - along * ry))
        (xx, yx), (xy, yy) = change
        a, b, ox, c, d, oy = self.on_main.index_select(1, scene)
        texel = torch.stack([a * px + b * py + ox, c * px + d * py + oy])
        jacobian = torch.stack([a * xx + b * yx, a * xy + b * yy, c * xx + d * yx, c * xy + d * yy])
        normal = F.normalize(torch.stack([-sx, -sy, torch.ones_like(sx)], -1), dim=-1)
        return texel, jacobian, brightness(normal, self.sun.index_select(0, scene))


def _grid(ys: Float[Tensor, " h"], xs: Float[Tensor, " w"]) -> Float[Tensor, "2 n"]:
    """Pixels (x, y), row by row."""
    return torch.stack([xs.repeat(len(ys)), ys.repeat_interleave(len(xs))])


def _soften_edges(
    images: Float[Tensor, "s v 3 h w"], surface: Int[Tensor, "s v h w"], depth: Float[Tensor, "s v h w"]
) -> Float[Tensor, "s v 3 h w"]:
    """Anti-alias outlines with a 3x3 binomial filter where surfaces meet or depth is discontinuous."""
    edge = torch.zeros_like(surface, dtype=torch.bool)
    for axis in (2, 3):
        n = surface.shape[axis] - 1
        here, there = (x.narrow(axis, 0, n) for x in (surface, depth)), (x.narrow(axis, 1, n) for x in (surface, depth))
        (surface0, depth0), (surface1, depth1) = here, there
        meets = (surface0 != surface1) | ((depth0 - depth1).abs() > _LEAP * depth0)
        edge.narrow(axis, 0, n).logical_or_(meets)
        edge.narrow(axis, 1, n).logical_or_(meets)
    padded = F.pad(images.flatten(0, 1), (1, 1, 1, 1), mode="replicate").unflatten(0, images.shape[:2])
    rows = (padded[..., 2:, :] + padded[..., :-2, :] + 2 * padded[..., 1:-1, :]) / 4
    soft = (rows[..., 2:] + rows[..., :-2] + 2 * rows[..., 1:-1]) / 4
    return torch.where(edge[:, :, None], soft, images)
