"""The network in a training step: heatmaps of all images, then descriptors at the keypoints, with gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

from disk.model import batched
from disk.model.disk import DISK
from disk.shapes import Float, Int, Tensor

# takes the image number and the pixel (x, y) of each keypoint, sorted by image; returns descriptors
Describe = Callable[[Int[Tensor, " k"], Int[Tensor, "k 2"]], Float[Tensor, "k d"]]
_POINTS_AT_ONCE = 1 << 15


def lean(model: DISK, images: Float[Tensor, "b 3 h w"], bf16: bool) -> tuple[Float[Tensor, "b h w"], Describe]:
    """Compute heatmaps, and a function that describes keypoints, image by image in strips of rows.

    Uses the least memory; for a CPU.
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        encoding = model.encode(images)
        heatmap = model.heatmap(encoding).to(images.dtype)

    def describe(image: Tensor, points: Tensor) -> Tensor:
        counts = torch.bincount(image, minlength=len(images)).tolist()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            return torch.cat(model.describe(encoding, list(points.split(counts)))).to(images.dtype)

    return heatmap, describe


def whole(model: DISK, images: Float[Tensor, "b 3 h w"], bf16: bool) -> tuple[Float[Tensor, "b h w"], Describe]:
    """The same as `lean` for all images at once with few operations; for a GPU.

    The largest feature maps, those of the last block, are recomputed in the backward pass instead of stored.
    """
    layout = batched.lay_out(model.unet, torch.bfloat16 if bf16 else images.dtype)
    maps = batched.trunk(layout, images)

    def describe(image: Tensor, points: Tensor) -> Tensor:
        if len(points) == 0:
            return images.new_zeros(0, model.desc_dim)
        parts = zip(image.split(_POINTS_AT_ONCE), points.split(_POINTS_AT_ONCE), strict=True)
        return torch.cat([_again(batched.describe, layout, maps, *part) for part in parts]).to(images.dtype)

    return _again(batched.heatmap, layout, maps).to(images.dtype), describe


def _again(function: Callable[..., Tensor], *arguments: object) -> Tensor:
    """The function's value; its backward pass recomputes the intermediate results."""
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
