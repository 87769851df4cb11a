"""Photos as textures: mip-map pyramids in memory and an anisotropic, anti-aliased lookup.

The pyramid of box-filtered levels with trilinear interpolation follows Williams, "Pyramidal parametrics" (1983); the
multiple probes along the major axis of the pixel's footprint follow Feline (McCormack et al. 1999).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from disk.blocks import blocks, rows_at_once
from disk.errors import DatasetError
from disk.progress import counted, log
from disk.shapes import Float, Int, Tensor

LEVELS = 6
MIN_SIDE = 128  # smaller photos would repeat within a view
_FRAME = 8  # pixels cropped on all sides: scans have borders, which mirroring would turn into lines
PLACES, _TILES = 12, 5
_MARGIN = 0.2  # border of a photo, as a fraction, from which a view would soon reach its mirror image
_PROBES = 2
_AT_ONCE = {"cpu": 1 << 14, "other": 1 << 22}  # pixels at a time: temporaries fit in a CPU's cache, or take 1 GB


@dataclass(frozen=True)
class PhotoStore:
    """All levels of all photos in one array.

    texels: photo by photo, level by level, row by row; red + 256 green + 65536 blue.
    offsets: (photos, LEVELS), start of each level.
    sizes: (photos, 2), width and height of level 0.
    places: (photos, PLACES, 2), x and y of the regions with the most detail.
    """

    texels: Int[Tensor, " t"]
    offsets: Int[Tensor, "n l"]
    sizes: Int[Tensor, "n 2"]
    places: Int[Tensor, "n k 2"]

    def __len__(self) -> int:
        return self.sizes.shape[0]

    def to(self, device: torch.device | str) -> PhotoStore:
        """Copy to another device."""
        return PhotoStore(*(part.to(device) for part in vars(self).values()))


def build_store(photos: Iterable[np.ndarray]) -> PhotoStore:
    """Build the pyramids of photos; skips photos with a side below MIN_SIDE, with a warning.

    Sides are cropped to multiples of 2^(LEVELS-1), so that each level is exactly half of the previous one.
    photos: uint8 arrays (H, W, 3).

    Raises DatasetError if no photo is large enough, if an array has another type, or if the photos exceed the texture
    memory.
    """
    texels, offsets, sizes, places, end, small = [], [], [], [], 0, 0
    for photo in photos:
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
            raise DatasetError(f"photos must be uint8 (H, W, 3) arrays, got {photo.dtype} {photo.shape}")
        if min(photo.shape[:2]) < MIN_SIDE:
            small += 1
            continue
        photo = photo[_FRAME:-_FRAME, _FRAME:-_FRAME]
        unit = 1 << (LEVELS - 1)
        height, width = (side // unit * unit for side in photo.shape[:2])
        packed = np.zeros((height, width, 4), np.uint8)
        packed[..., :3] = photo[:height, :width]
        level = torch.from_numpy(packed).permute(2, 0, 1).float()
        sizes.append([width, height])
        places.append(_places(level))
        begins = []
        for _ in range(LEVELS):
            # red is the lowest byte
            rounded = level.round().to(torch.uint8).permute(1, 2, 0).contiguous()
            texels.append(rounded.view(torch.int32).flatten())
            begins.append(end)
            end += texels[-1].numel()
            level = F.avg_pool2d(level, 2)
        offsets.append(begins)
    if not sizes:
        raise DatasetError(f"no photos with sides of at least {MIN_SIDE} px to render scenes from")
    if small:
        log.warning("skipping %s with a side below %d px", counted(small, "photo"), MIN_SIDE)
    if end >= 1 << 31:
        raise DatasetError("too many photos for the texture memory; use fewer or smaller ones")
    return PhotoStore(
        torch.cat(texels),
        torch.tensor(offsets, dtype=torch.int32),
        torch.tensor(sizes, dtype=torch.int32),
        torch.stack(places),
    )


def _places(photo: Tensor) -> Tensor:
    """Centres (PLACES, 2) of the tiles with the most contrast at a scale of 4 to 8 pixels, away from the border."""
    small = F.avg_pool2d(photo.mean(0)[None], 4)
    contrast = (small - F.avg_pool2d(small, 3, 1, 1)).abs()
    rows, columns = (int(side * _MARGIN) for side in small.shape[1:])
    inner = contrast[:, rows : small.shape[1] - rows, columns : small.shape[2] - columns]
    tiles = F.adaptive_avg_pool2d(inner, (_TILES, _TILES)).flatten()
    best = tiles.topk(PLACES).indices
    centres = (torch.stack([best % _TILES, best // _TILES], -1) + 0.5) / _TILES
    size = torch.tensor([photo.shape[2], photo.shape[1]])
    return ((_MARGIN + (1 - 2 * _MARGIN) * centres) * size).to(torch.int32)


def lookup(
    store: PhotoStore,
    photo: Int[Tensor, " n"],
    position: Float[Tensor, "2 n"],
    jacobian: Float[Tensor, "4 n"],
) -> Float[Tensor, "3 n"]:
    """Look up filtered colours in [0, 1] of photos, mirrored beyond their borders.

    photo: index of the photo.
    position: x and y in texels of level 0; (0, 0) is the centre of the first.
    jacobian: texels per pixel of the rendered image: dx/dx', dx/dy', dy/dx', dy/dy'.
    """
    parts = [
        _lookup(store, photo[some], position[:, some], jacobian[:, some])
        for some in blocks(photo.shape[0], rows_at_once(1, position.device, _AT_ONCE))
    ]
    return torch.cat(parts, dim=1) if parts else position.new_zeros(3, 0)


def _lookup(store: PhotoStore, photo: Tensor, position: Tensor, jacobian: Tensor) -> Tensor:
    axis, footprint = _footprint(jacobian)
    lod = footprint.clamp(min=1).log2_().clamp_(max=LEVELS - 1)
    # axes from here on: probes, levels, pixels; at the top, the coarser level is the same one, with weight 0
    fine = lod.floor()
    share = torch.stack([1 - (lod - fine), lod - fine]) / _PROBES
    level = torch.stack([fine, (fine + 1).clamp_(max=LEVELS - 1)]).to(torch.int32)
    photo = photo.to(torch.int32)
    begin = store.offsets.flatten().index_select(0, (photo * LEVELS + level).flatten()).view_as(level)
    size = store.sizes.index_select(0, photo).T
    offsets = (torch.arange(_PROBES, device=axis.device) + 0.5) / _PROBES - 0.5
    at = position[:, None] + 0.5 + offsets[:, None] * axis[:, None]  # (2, probes, n)
    # a triangle wave mirrors the photo endlessly
    side = size[:, None].to(at.dtype)
    at -= (at / (2 * side)).floor_().mul_(2 * side)
    at = side - (at - side).abs_()
    x, y = at[:, :, None] * torch.exp2(-level.to(at.dtype)) - 0.5
    width, height = size[:, None] >> level
    x0, y0 = x.floor(), y.floor()
    fx, fy = x - x0, y - y0
    x0, y0 = x0.to(torch.int32), y0.to(torch.int32)
    left, right = x0.clamp(min=0), torch.minimum(x0 + 1, width - 1)
    top = torch.addcmul(begin, width, y0.clamp(min=0))
    bottom = torch.addcmul(begin, width, torch.minimum(y0 + 1, height - 1))
    lower = fy * share
    upper = share - lower
    lower_right, upper_right = lower * fx, upper * fx
    weights = torch.stack([upper - upper_right, upper_right, lower - lower_right, lower_right]).flatten(0, 2)
    index = torch.stack([top + left, top + right, bottom + left, bottom + right])
    texels = store.texels.index_select(0, index.flatten()).view_as(weights)
    colour = [((texels & (255 * unit)) * weights).sum(0).div_(255 * unit) for unit in (1, 256, 65536)]
    return torch.stack(colour)


def _footprint(jacobian: Tensor) -> tuple[Tensor, Tensor]:
    """Major axis (2, n) of a pixel's footprint in texels, and the side (n,) that each probe must cover.

    The lengths of the axes are the singular values of the Jacobian: the roots of s^4 - (p + r) s^2 + det^2.
    """
    a, b, c, d = jacobian
    p, q, r = a * a + b * b, a * c + b * d, c * c + d * d
    mean, det = (p + r) / 2, a * d - b * c
    root = (mean * mean - det * det).clamp_(min=0).sqrt_()
    major2, minor = mean + root, (mean - root).clamp_(min=0).sqrt_()
    # eigenvector of [[p, q], [q, r]], from the row that cannot vanish
    upright = p < r
    ex, ey = torch.where(upright, q, major2 - r), torch.where(upright, major2 - p, q)
    major = major2.sqrt()
    scale = major / (ex * ex + ey * ey).sqrt_().clamp_(min=1e-20)
    return torch.stack([ex * scale, ey * scale]), torch.maximum(minor, major / _PROBES)
