"""The network and detection in tiles, for images whose maps do not fit into memory. Exact up to rounding.

Each normalisation is over the whole image, so a tile cannot run from the image to the features on its own. Instead,
each normalised map takes a pass over the tiles, which adds up the map's moments (`disk.model.moments`); the next pass
recomputes the map from the image, now with a known norm. Maps at 1/8 resolution and below are small enough to be kept
whole, so tiles need not overlap by the whole receptive field (`disk.model.tiles`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F

from disk.features import Features
from disk.model import upblock
from disk.model.canvas import Canvas
from disk.model.detection import best_allowed, nms, refine, sample_grid
from disk.model.memory import tile_side
from disk.model.moments import Moments, Norm
from disk.model.options import DetectionOptions
from disk.model.statistics import Encoding
from disk.model.strips import large
from disk.model.tiles import Tile, cut
from disk.model.unet import ConvBlock, UNet, UpBlock
from disk.model.winograd import MARGIN, TILE
from disk.progress import log
from disk.shapes import Float, Tensor, UInt8

if TYPE_CHECKING:
    from disk.model.disk import DISK

_FINE = 3  # blocks of the down path whose maps, at 1, 1/2 and 1/4 resolution, are never in memory as a whole


class TiledNetwork:
    """The input of the last block for one image (1, 3, H, W), tile by tile; six passes over the tiles prepare it."""

    def __init__(
        self,
        unet: UNet,
        image: UInt8[Tensor, "1 3 h w"] | Float[Tensor, "1 3 h w"],
        tiles: Sequence[Tile],
    ) -> None:
        self._unet, self._image, self._tiles = unet, image, tiles
        first = next(unet.parameters())
        self._dtype, self._device = first.dtype, first.device
        # norms of what each block normalises: the pooled maps on the down path, and both inputs of the up blocks
        self._pooled: list[Norm] = []
        self._skips: list[Norm] = []
        self._halves: list[Norm] = []
        self._eighth = self._up_to_an_eighth(self._measure_way_down())
        self._halves.append(self._measure(lambda tile: tile.crop(self._eighth, 8)))
        self._halves.append(self._measure(lambda tile: self._trunk(tile, 1)[0]))
        self._halves.append(self._measure(lambda tile: self._trunk(tile, 2)[0]))

    def encoding(self, tile: Tile) -> Encoding:
        """Run everything except the last convolution on the pixels a tile sees; exact at and near its own pixels."""
        half, skip = self._trunk(tile, 2)
        return self._encode(3, half, skip)

    def _measure_way_down(self) -> Tensor:
        """Measure the norms of the finest maps, as skip connections and pooled; returns the last one pooled."""
        smallest = self._empty(8, 64)
        for depth in range(1, _FINE + 1):
            skip, pooled = Moments(), Moments()
            for tile in self._tiles:
                x = self._down(tile, depth)[-1]
                small = F.avg_pool2d(x, 2)
                skip.add(tile, x)
                pooled.add(tile, small)
                if depth == _FINE:
                    tile.put(small, smallest, 8)
            self._skips.append(skip.norm())
            self._pooled.append(pooled.norm())
        return smallest

    def _up_to_an_eighth(self, pooled: Tensor) -> Tensor:
        """The output of the first up block, from the input of the fourth block of the down path."""
        skip = self._assemble(8, lambda tile: self._convolve(3, tile.crop(pooled, 8)))
        pooled = F.avg_pool2d(skip, 2)
        self._skips.append(self._measure(lambda tile: tile.crop(skip, 8), upsampled=False))
        self._pooled.append(self._measure(lambda tile: tile.crop(pooled, 16), upsampled=False))
        half = self._assemble(16, lambda tile: self._convolve(4, tile.crop(pooled, 16)))
        self._halves.append(self._measure(lambda tile: tile.crop(half, 16)))
        return self._assemble(8, lambda tile: self._up(0, tile.crop(half, 16), tile.crop(skip, 8)))

    def _measure(self, make: Callable[[Tile], Tensor], upsampled: bool = True) -> Norm:
        moments = Moments(upsampled)
        for tile in self._tiles:
            moments.add(tile, make(tile))
        return moments.norm()

    def _assemble(self, stride: int, make: Callable[[Tile], Tensor]) -> Tensor:
        """Assemble a whole map from the parts that the tiles give."""
        whole = self._empty(stride, 64)
        for tile in self._tiles:
            tile.put(make(tile), whole, stride)
        return whole

    def _empty(self, stride: int, channels: int) -> Tensor:
        height, width = self._image.shape[2:]
        return large(next(self._unet.parameters()).detach(), 1, channels, height // stride, width // stride)

    def _down(self, tile: Tile, depth: int = _FINE) -> list[Tensor]:
        """The maps of the first blocks of the down path."""
        pixels = tile.crop(self._image).to(self._device)
        x = pixels.to(self._dtype).div_(255) if pixels.dtype == torch.uint8 else pixels.to(self._dtype)
        maps = [cast(ConvBlock, cast(nn.Sequential, self._unet.path_down[0])[1])(x)]
        for i in range(1, depth):
            maps.append(self._convolve(i, F.avg_pool2d(maps[-1], 2)))
        return maps

    def _convolve(self, i: int, pooled: Tensor) -> Tensor:
        """Block i > 0 of the down path, after its pooling."""
        slope, weight, bias = cast(ConvBlock, cast(nn.Sequential, self._unet.path_down[i])[1]).weights()
        norm = self._pooled[i - 1]
        activation = F.prelu(pooled - norm.mean, slope)
        return F.conv2d(activation, weight * norm.scale[:, :, None, None], bias, padding=MARGIN)

    def _trunk(self, tile: Tile, blocks: int) -> tuple[Tensor, Tensor]:
        """The map after one or both up blocks above 1/8 resolution, and the skip connection at full resolution."""
        maps = self._down(tile)
        x = tile.crop(self._eighth, 8)
        for i in range(1, blocks + 1):
            x = self._up(i, x, maps.pop())
        return x, maps[0]

    def _up(self, i: int, half: Tensor, skip: Tensor) -> Tensor:
        """Block i of the up path."""
        encoding = self._encode(i, half, skip)
        slope, weight, bias = cast(UpBlock, self._unet.path_up[i]).conv.weights()
        if half.device.type == "cpu" and skip.shape[2] % TILE == skip.shape[3] % TILE == 0:
            return upblock.convolve(encoding, slope, weight, bias)
        upsampled = F.interpolate(encoding.half, scale_factor=2, mode="bilinear", align_corners=False)
        activation = F.prelu(torch.cat([upsampled, encoding.skip], 1), slope)
        return F.conv2d(activation, weight * encoding.scale[:, :, None, None], bias, padding=MARGIN)

    def _encode(self, i: int, half: Tensor, skip: Tensor) -> Encoding:
        norms = self._halves[i], self._skips[3 - i]
        scale = torch.cat([norm.scale for norm in norms], 1)
        return Encoding(half - norms[0].mean, skip - norms[1].mean, scale)


@torch.no_grad()
def detect_in_tiles(
    model: DISK,
    canvases: Sequence[Canvas],
    options: DetectionOptions,
    generator: torch.Generator | None,
    to: torch.device,
) -> Callable[[], list[Features]]:
    """Do what an engine's `start` does for images too large for it; at once, in single precision at least.

    Mode rng draws tile by tile, so the samples depend on the tiles.
    """
    if next(model.parameters()).dtype.itemsize < 4:
        model = copy.deepcopy(model).float()
    found = [_detect(model, canvas, options, generator).to(to) for canvas in canvases]
    return lambda: found


def _detect(model: DISK, canvas: Canvas, options: DetectionOptions, generator: torch.Generator | None) -> Features:
    """Features in pixels of the canvas, best first."""
    height, width = canvas.pixels.shape[1:]
    tiles = cut(height, width, tile_side(height * width, model.device), options.window)
    rows, columns = (max(tile.seen[i].stop - tile.seen[i].start for tile in tiles) for i in (0, 1))
    log.info(
        "%d x %d does not fit into memory; running in %d overlapping tiles of at most %d x %d",
        canvas.placement.width, canvas.placement.height, len(tiles), columns, rows,
    )  # fmt: skip
    network = TiledNetwork(model.unet, canvas.pixels[None], tiles)
    used = [t for t in tiles if t.own[0].start < canvas.placement.height and t.own[1].start < canvas.placement.width]
    found = [_detect_in(tile, model, network, canvas, options, generator) for tile in used]
    pixels, scores, keypoints, descriptors = (torch.cat(parts) for parts in zip(*found, strict=True))
    # same order as for a whole image: best first, equal scores in reading order
    reading = torch.argsort(pixels[:, 1] * width + pixels[:, 0])
    order = reading[torch.argsort(scores[reading], descending=True, stable=True)][: options.budget]
    return Features(keypoints[order], descriptors[order].float(), scores[order].float())


def _detect_in(
    tile: Tile,
    model: DISK,
    network: TiledNetwork,
    canvas: Canvas,
    options: DetectionOptions,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best features on a tile's own pixels: pixels (K, 2), scores (K,), keypoints (K, 2) and descriptors (K, D).

    A tile sees enough pixels around its own for the same suppression as in the whole image. Each pixel belongs to one
    tile.
    """
    encoding = network.encoding(tile)
    logits = model.heatmap(encoding)
    corner = torch.tensor(tile.corner, device=logits.device)
    # suppression and peaks end at the border of the image
    area = logits[0, : canvas.placement.height - tile.corner[1], : canvas.placement.width - tile.corner[0]]
    if options.mode == "nms":
        points, scores = nms(area, options.window)
    else:
        ((points, scores),) = sample_grid(logits, generator)
    points = points + corner
    own = tile.owns(points)
    points, scores = best_allowed(points[own], scores[own], canvas, options.budget)
    seen = points - corner
    (descriptors,) = model.describe(encoding, [seen])
    subpixel = options.subpixel and options.mode == "nms"
    keypoints = refine(area, seen) + corner if subpixel else points.float()
    return points, scores, keypoints, descriptors
