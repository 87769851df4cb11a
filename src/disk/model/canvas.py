"""The input of the network: an image on a canvas whose sides are multiples of 16, and its placement there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.nn import functional as F

from disk.errors import ImageError
from disk.images.inputs import ImageLike, Pixels, as_pixels
from disk.images.masks import load_mask
from disk.images.resizing import Placement, fit, place, resize_floats
from disk.model.options import DetectionOptions
from disk.model.unet import STRIDE
from disk.progress import counted
from disk.shapes import Bool, Float, Tensor, UInt8

Masks: TypeAlias = ImageLike | Sequence[ImageLike | None] | None


@dataclass(frozen=True, eq=False)
class Canvas:
    """An image prepared for the network.

    pixels: RGB (3, H, W), uint8 or floats in [0, 1], H and W multiples of 16; 0 outside the placement
    placement: where the image lies on the canvas
    size: (width, height) in pixels of the original image
    mask: of the placement's height and width, False where no keypoint may be
    """

    pixels: UInt8[Tensor, "3 h w"] | Float[Tensor, "3 h w"]
    placement: Placement
    size: tuple[int, int]
    mask: Bool[Tensor, "_ _"] | None = None


def pad_to_stride(pixels: Tensor) -> Tensor:
    """Pad (..., H, W) with zeros at the bottom and right to the next multiples of 16."""
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (0, -width % STRIDE, 0, -height % STRIDE))


def make_canvases(
    images: Any,
    options: DetectionOptions,
    masks: Any = None,
) -> tuple[list[Canvas], bool]:
    """Prepare images for the network; also returns whether it was a single image.

    images: anything that `as_pixels` reads
    masks: a list with one mask, or None, for each image, or one mask for a single image; 0 where no keypoint may be

    Raises ImageError if an image or mask cannot be used, and if their numbers or sizes differ.
    """
    found, single = as_pixels(images)
    wanted: Sequence[ImageLike | None]
    if masks is None:
        wanted = [None] * len(found)
    else:
        wanted = masks if isinstance(masks, list | tuple) else [masks]
    if len(wanted) != len(found):
        raise ImageError(
            f"{counted(len(found), 'image')} but {counted(len(wanted), 'mask')}; give one mask per image, None for "
            "no mask"
        )
    return [_make_canvas(image, mask, options) for image, mask in zip(found, wanted, strict=True)], single


def _make_canvas(image: Pixels, mask: ImageLike | None, options: DetectionOptions) -> Canvas:
    height, width = image.pixels.shape[1:]
    box = (options.height, options.width)
    placement = fit((width, height), options.max_size, *box, image.orientation)
    if image.pixels.dtype == torch.uint8 and (placement.width, placement.height) != (width, height):
        rows, _ = place(image.pixels.permute(1, 2, 0).cpu().numpy(), options.max_size, *box)
        pixels = torch.from_numpy(np.array(rows.transpose(2, 0, 1))).to(image.pixels.device)
    else:
        pixels = image.pixels if image.pixels.dtype == torch.uint8 else resize_floats(image.pixels, placement)
        if options.height is not None and options.width is not None:
            below, right = options.height - placement.height, options.width - placement.width
            pixels = F.pad(pixels, (0, right, 0, below))
    size = placement.original_size
    return Canvas(pad_to_stride(pixels), placement, size, None if mask is None else load_mask(mask, placement))
