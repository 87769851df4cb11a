"""What the network is given: an image on a canvas whose sides are multiples of 16, and where the image lies on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from disk.images.resizing import Placement
from disk.model.options import DetectionOptions
from disk.model.unet import STRIDE
from disk.shapes import Bool, Float, Tensor, UInt8


@dataclass(frozen=True, eq=False)
class Canvas:
    """An image as the network takes it.

    pixels: RGB (3, H, W), uint8 or floats in [0, 1], H and W multiples of 16; what the placement does not cover is 0.
    size: (width, height) of the image before it was placed, in pixels.
    mask: of the placement's height and width, False where no keypoint may be.
    """

    pixels: UInt8[Tensor, "3 h w"] | Float[Tensor, "3 h w"]
    placement: Placement
    size: tuple[int, int]
    mask: Bool[Tensor, "_ _"] | None = None


def pad_to_stride(pixels: Tensor) -> Tensor:
    """Zero rows and columns at the bottom and right of (..., H, W), to the next multiple of 16."""
    height, width = pixels.shape[-2:]
    return torch.nn.functional.pad(pixels, (0, -width % STRIDE, 0, -height % STRIDE))


def make_canvases(image: Any, options: DetectionOptions, masks: Any = None) -> tuple[list[Canvas], bool]:
    """TODO"""
    import numpy as np

    from disk.errors import ImageError
    from disk.images.resizing import place

    if isinstance(image, (list, tuple)):
        return [make_canvases(i, options)[0][0] for i in image], False
    if isinstance(image, Tensor):
        if image.is_floating_point() and image.ndim in (3, 4) and image.shape[-3] == 3:
            batch = image[None] if image.ndim == 3 else image
            h, w = batch.shape[2:]
            return [Canvas(pad_to_stride(i), Placement(w, h, 1.0, 1.0), (w, h)) for i in batch], image.ndim == 3
        raise ImageError(f"expected a float (3, H, W) or (B, 3, H, W) tensor, got {image.dtype} {tuple(image.shape)}")
    array = np.array(image.convert("RGB") if hasattr(image, "convert") else image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(f"expected a uint8 (H, W, 3) image, got {array.dtype} {array.shape}")
    size = (array.shape[1], array.shape[0])
    array, placement = place(array, options.max_size, options.height, options.width)
    return [Canvas(pad_to_stride(torch.from_numpy(array.copy()).permute(2, 0, 1)), placement, size)], True
