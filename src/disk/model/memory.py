"""What fits into the memory, how many images go at once on a GPU, what if they did not fit, and how they get there."""

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
_ENOUGH = 16  # images of the reference's size; more at once do not make a GPU any busier
_SHARE = 0.8  # of the free memory; the rest is for the workspaces of libraries and for fragments
_UNKNOWN = 4  # images of the reference's size where the free memory is not known
_ALWAYS_WHOLE = 1600 * 1600  # pixels; what the default size makes of an image
_NEVER_WHOLE = 1 << 27  # pixels; above, the maps take tens of gigabytes and have more numbers than 32 bits count


# in tiles: bytes for each pixel of the image and of a tile, in single precision, and the least and largest tile
_KEPT_PER_PIXEL, _TILE_PER_PIXEL = 9, 400
_SIDES = 512, 2048


def fits(pixels: int, bytes_per_pixel: int, device: torch.device) -> bool:
    """Whether the maps of an image of so many pixels fit into the memory that is free."""
    if pixels <= _ALWAYS_WHOLE:
        return True
    return pixels <= _NEVER_WHOLE and pixels * bytes_per_pixel <= _SHARE * free_memory(device)


def tile_side(pixels: int, device: torch.device) -> int:
    """The side in pixels, a multiple of 16, of the tiles that an image of so many pixels is worked on in."""
    left = _SHARE * free_memory(device) - _KEPT_PER_PIXEL * pixels
    side = math.sqrt(max(0.0, left) / _TILE_PER_PIXEL)
    return int(min(max(side, _SIDES[0]), _SIDES[1])) // STRIDE * STRIDE


class Parts:
    """Splits batches that do not fit into the memory, and remembers how much did not."""

    def __init__(self, bytes_per_pixel: int) -> None:
        self._bytes_per_pixel = bytes_per_pixel
        self._pixels = math.inf  # in one batch, the most to try

    def images_at_once(self, height: int, width: int, device: torch.device) -> int:
        """How many images of this size go into a batch: what fits the free memory, and no more than are of use."""
        pixels = height * width
        enough: float = _UNKNOWN
        if device.type == "cuda":
            enough = min(_ENOUGH, _SHARE * free_memory(device) / (self._bytes_per_pixel * _REFERENCE))
        return max(1, int(min(enough * _REFERENCE, self._pixels) // pixels))

    def run(self, function: Callable[[Sequence[Canvas]], R], canvases: Sequence[Canvas]) -> list[R]:
        """The function's results for all canvases of one shape together, or for parts of them where these do not fit.

        Raises torch.OutOfMemoryError when a single one does not.
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
            # outside of the handler, because the exception keeps the maps alive
            if self._pixels == math.inf:
                log.warning(
                    "%d images of %d x %d did not fit into the GPU's memory; going on with smaller batches",
                    len(part), width, height,
                )  # fmt: skip
            most = len(part) // 2
            self._pixels = most * height * width
            torch.cuda.empty_cache()
        return results


def upload(
    canvases: Sequence[Canvas], device: torch.device
) -> tuple[UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"], Int[Tensor, "b 2"], Bool[Tensor, "b h w"] | None]:
    """Pixels, sizes (height, width) and masks of canvases of one shape on a device, without waiting for the copies."""
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
    # torch keeps pinned memory for reuse once the copy is done
    pinned = torch.empty(len(parts), *parts[0].shape, dtype=parts[0].dtype, pin_memory=True)
    return torch.stack(parts, out=pinned).to(device, non_blocking=True)
