"""Memory: whether an image fits, how many images a GPU takes at once, recovery if they did not fit, and the upload."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from disk.devices import free_memory
from disk.model.canvas import Canvas
from disk.model.unet import STRIDE
from disk.progress import log
from disk.shapes import Bool, Float, Int, Tensor, UInt8

R = TypeVar("R")

_REFERENCE = 1024 * 768  # pixels
_ENOUGH = 16  # images of the reference size; a larger batch does not make a GPU any busier
_SHARE = 0.8  # of the free memory; the rest is for workspaces of libraries and fragmentation
_UNKNOWN = 4  # images of the reference size, if the free memory is unknown
_ALWAYS_WHOLE = 1600 * 1600  # pixels; the largest image at the default size
_NEVER_WHOLE = 1 << 27  # pixels; larger maps take tens of gigabytes and have more elements than 32 bits can count


# in tiles, in single precision: bytes per pixel of the image and of a tile, and the smallest and largest side of a tile
_KEPT_PER_PIXEL, _TILE_PER_PIXEL = 9, 400
_SIDES = 512, 2048


def fits(pixels: int, bytes_per_pixel: int, device: torch.device) -> bool:
    """Whether the maps of an image with this number of pixels fit into the free memory."""
    if pixels <= _ALWAYS_WHOLE:
        return True
    return pixels <= min(_NEVER_WHOLE, pixels_that_fit(bytes_per_pixel, device))


def pixels_that_fit(bytes_per_pixel: int, device: torch.device) -> float:
    """The number of pixels whose maps fit into the free memory together."""
    return _SHARE * free_memory(device) / bytes_per_pixel


def tile_side(pixels: int, device: torch.device) -> int:
    """The side of tiles for an image with this number of pixels; in pixels, a multiple of 16."""
    left = _SHARE * free_memory(device) - _KEPT_PER_PIXEL * pixels
    side = math.sqrt(max(0.0, left) / _TILE_PER_PIXEL)
    return int(min(max(side, _SIDES[0]), _SIDES[1])) // STRIDE * STRIDE


class Parts:
    """Splits batches that do not fit into memory, and remembers the size that did not."""

    def __init__(self, bytes_per_pixel: int) -> None:
        self._bytes_per_pixel = bytes_per_pixel
        self._pixels = math.inf  # largest batch to try

    def images_at_once(self, height: int, width: int, device: torch.device) -> int:
        """The number of images of this size for a batch: what fits the free memory, and no more than speeds it up."""
        pixels = height * width
        enough: float = _UNKNOWN
        if device.type == "cuda":
            enough = min(_ENOUGH, _SHARE * free_memory(device) / (self._bytes_per_pixel * _REFERENCE))
        return max(1, int(min(enough * _REFERENCE, self._pixels) // pixels))

    def run(self, function: Callable[[Sequence[Canvas]], R], canvases: Sequence[Canvas]) -> list[R]:
        """Run the function on all canvases, which have one shape, or on parts of them if they do not fit together.

        Raises torch.OutOfMemoryError if a single canvas does not fit.
        """
        height, width = canvases[0].pixels.shape[1:]
        most = int(max(1, min(len(canvases), self._pixels // (height * width))))
        results: list[R] = []
        while canvases:
            part = canvases[:most]
            try:
                results.append(function(part))
                canvases = canvases[len(part) :]
                continue
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
            # outside the handler, because the exception keeps the maps alive
            if self._pixels == math.inf:
                log.warning(
                    "%d images of %d x %d did not fit into the GPU's memory; continuing with smaller batches",
                    len(part), width, height,
                )  # fmt: skip
            most = len(part) // 2
            self._pixels = most * height * width
            torch.cuda.empty_cache()
        return results


def upload(
    canvases: Sequence[Canvas], device: torch.device
) -> tuple[UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"], Int[Tensor, "b 2"], Bool[Tensor, "b h w"] | None]:
    """Copy pixels, sizes (height, width) and masks of canvases of one shape to a device, without waiting."""
    pixels = _stacked([canvas.pixels for canvas in canvases], device)
    sizes = [torch.tensor([c.placement.height, c.placement.width], dtype=torch.int32) for c in canvases]
    masks = None
    if any(canvas.mask is not None for canvas in canvases):
        height, width = pixels.shape[2:]
        masks = _stacked([_whole_mask(canvas, height, width) for canvas in canvases], device)
    return pixels, _stacked(sizes, device), masks


def _whole_mask(canvas: Canvas, height: int, width: int) -> Tensor:
    mask = torch.ones(height, width, dtype=torch.bool)
    if canvas.mask is not None:
        mask[: canvas.placement.height, : canvas.placement.width] = canvas.mask
    return mask


def _stacked(parts: list[Tensor], device: torch.device) -> Tensor:
    if device.type != "cuda" or parts[0].is_cuda:
        return torch.stack(parts).to(device)
    # torch reuses the pinned memory, but only after the copy
    pinned = torch.empty(len(parts), *parts[0].shape, dtype=parts[0].dtype, pin_memory=True)
    return torch.stack(parts, out=pinned).to(device, non_blocking=True)
