"""DISK: the network together with detection and description."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from disk.features import Features
from disk.model import head
from disk.model.detection import nms, refine, sample_grid
from disk.model.statistics import Encoding, encode
from disk.model.unet import UNet, UpBlock
from disk.shapes import Float, Int, Tensor

STRIDE = 16  # height and width of the network's input are multiples of this


class DISK(nn.Module):
    """DISK local features (Tyszkiewicz, Fua, Trulls, NeurIPS 2020).

    Parameters have the names and shapes of the released checkpoints. Images are RGB in [0, 1].
    """

    def __init__(self, desc_dim: int = 128) -> None:
        super().__init__()
        self.desc_dim = desc_dim
        self.unet = UNet(desc_dim + 1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b d h w"]]:
        """Heatmap logits and raw descriptors at every pixel: the original's dense formulation."""
        dense = self.unet(images)
        return dense[:, self.desc_dim :], dense[:, : self.desc_dim]

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Encoding:
        """Everything but the last convolution."""
        return encode(*self.unet.trunk(images))

    def heatmap(self, encoding: Encoding) -> Float[Tensor, "b h w"]:
        """Heatmap logits at every pixel."""
        slope, weight, bias = self._last_block()
        return head.heatmap(encoding, slope, weight[self.desc_dim], bias[self.desc_dim])

    def describe(self, encoding: Encoding, points: list[Int[Tensor, "_ 2"]]) -> list[Float[Tensor, "_ d"]]:
        """Unit descriptors at the given pixels (x, y) of each image of the batch."""
        slope, weight, bias = self._last_block()
        weight, bias = weight[: self.desc_dim], bias[: self.desc_dim]
        # unbind, because the gradient of an index is a map of the whole batch, for each image
        images = zip(encoding.half.unbind(), encoding.skip.unbind(), encoding.scale.unbind(), points, strict=True)
        return [F.normalize(head.describe(*image, slope, weight, bias), dim=1) for image in images]

    def _last_block(self) -> tuple[Tensor, Tensor, Tensor]:
        return cast(UpBlock, self.unet.path_up[-1]).conv.weights()

    def sample(self, images: Float[Tensor, "b 3 h w"], generator: torch.Generator | None = None) -> list[Features]:
        """Training: keypoints drawn from the heatmap; scores are their log-probabilities. With gradients."""
        encoding = self.encode(images)
        drawn = sample_grid(self.heatmap(encoding), generator)
        descriptors = self.describe(encoding, [points for points, _ in drawn])
        return [
            Features(points.to(log_p.dtype), descriptor, log_p)
            for (points, log_p), descriptor in zip(drawn, descriptors, strict=True)
        ]

    @torch.inference_mode()
    def detect(self, image: Any, n: int | None = None, window: int = 5, subpixel: bool = False) -> Any:
        """Features of one image (uint8 (H, W, 3) array, PIL image, float (3, H, W) tensor) of any size, best first.

        A float (B, 3, H, W) tensor gives a list. `n`: the most keypoints to keep; `window`: of the non-maximum
        suppression, in pixels; `subpixel`: keypoints at the peaks of the heatmap between pixels, as the commands find
        them, instead of whole pixels, as in the original. Raises ImageError for anything else.
        """
        batch, single = _as_batch(image)
        device = next(self.parameters()).device
        found = self.detect_batch(batch.to(device), n, window, subpixel)
        return found[0] if single else found

    def detect_batch(
        self, images: Float[Tensor, "b 3 h w"], n: int | None = None, window: int = 5, subpixel: bool = False
    ) -> list[Features]:
        """Features of images of one size, any size."""
        height, width = images.shape[2:]
        encoding = self.encode(pad(images))
        heatmaps = self.heatmap(encoding)[:, :height, :width]
        kept = [nms(heatmap, window, n) for heatmap in heatmaps]
        descriptors = self.describe(encoding, [points for points, _ in kept])
        return [
            Features(refine(heatmap, points) if subpixel else points.float(), descriptor.float(), scores.float())
            for heatmap, (points, scores), descriptor in zip(heatmaps, kept, descriptors, strict=True)
        ]


def pad(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h2 w2"]:
    """Zero rows and columns at the bottom and right, to the next multiple of 16."""
    height, width = images.shape[2:]
    return F.pad(images, (0, -width % STRIDE, 0, -height % STRIDE))


def _as_batch(image: Any) -> tuple[Tensor, bool]:
    from disk.errors import ImageError

    if isinstance(image, Tensor):
        if image.is_floating_point() and image.ndim in (3, 4) and image.shape[-3] == 3:
            return (image[None], True) if image.ndim == 3 else (image, False)
        raise ImageError(f"expected a float (3, H, W) or (B, 3, H, W) tensor, got {image.dtype} {tuple(image.shape)}")
    import numpy as np

    array = np.array(image.convert("RGB") if hasattr(image, "convert") else image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(f"expected a uint8 (H, W, 3) image, got {array.dtype} {array.shape}")
    return torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255, True
