"""DISK for a whole batch at once, channels innermost, at any precision: what a GPU runs, in inference and in training.

    layout = lay_out(model.unet, torch.bfloat16)
    maps = trunk(layout, images)
    heatmap(layout, maps)
    describe(layout, maps, image, points)

Gradients reach the parameters through `lay_out`, which casts each of them once; statistics, heatmap and descriptors
are in single precision at least. No bias but those of the last convolution is used: every other convolution's output
is normalised after pooling, upsampling or nothing, which keep a constant, and the mean takes it away.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from disk.model import kernels
from disk.model.detections import Detections
from disk.model.kernels.plain import INPUT_CHANNELS
from disk.model.unet import ConvBlock, UNet, UpBlock
from disk.model.winograd import KERNEL, MARGIN
from disk.shapes import Bool, Float, Int, Tensor, UInt8


@dataclass(frozen=True)
class Layout:
    """The weights of a U-Net at one precision, channels innermost; slopes and biases are single precision at least.

    down, up: the convolutions (O, C, 5, 5), the first of which has 8 input channels, and without the last.
    down_slopes, up_slopes: of the PReLU before each convolution but the first.
    taps: (25, C) the last convolution's kernel of the heatmap, in reading order; heatmap_bias: its bias.
    matrix: (25 C, D) the last convolution's other kernels, by tap and channel; bias: (D,) theirs.
    """

    down: tuple[Float[Tensor, "_ _ 5 5"], ...]
    up: tuple[Float[Tensor, "_ _ 5 5"], ...]
    down_slopes: tuple[Float[Tensor, " _"], ...]
    up_slopes: tuple[Float[Tensor, " _"], ...]
    taps: Float[Tensor, "25 c"]
    heatmap_bias: Float[Tensor, ""]
    matrix: Float[Tensor, "k d"]
    bias: Float[Tensor, " d"]

    @property
    def dtype(self) -> torch.dtype:
        """Of the maps."""
        return self.taps.dtype

    @property
    def operations(self) -> ModuleType:
        """Triton's or plain torch's (`disk.model.kernels`)."""
        return kernels.operations(self.taps.device, self.dtype)


@dataclass(frozen=True)
class Maps:
    """What the last block reads: the inputs of its upsampling and of its skip connection, and their norms."""

    half: Float[Tensor, "b c1 h2 w2"]
    skip: Float[Tensor, "b c2 h w"]
    half_norm: Float[Tensor, "b 2 c1"]
    skip_norm: Float[Tensor, "b 2 c2"]

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """In the order in which the operations take them."""
        return self.half, self.skip, self.half_norm, self.skip_norm


def lay_out(unet: UNet, dtype: torch.dtype) -> Layout:
    """The weights of a DISK network, whose last output channel is the heatmap, at a precision; with gradients."""
    exact = torch.promote_types(dtype, torch.float32)
    steps = [cast(ConvBlock, cast(nn.Sequential, step)[1]) for step in unet.path_down]
    blocks = [cast(UpBlock, block).conv.weights() for block in unet.path_up]
    down = [cast(nn.Conv2d, step[3]).weight for step in steps]
    down_slopes = [cast(nn.PReLU, step[1]).weight for step in steps[1:]]
    _, last, bias = blocks[-1]
    last = last.to(dtype).permute(2, 3, 1, 0).reshape(KERNEL**2, last.shape[1], last.shape[0])
    first = F.pad(down[0], (0, 0, 0, 0, 0, INPUT_CHANNELS - down[0].shape[1]))
    return Layout(
        down=tuple(_kernel(weight, dtype) for weight in (first, *down[1:])),
        up=tuple(_kernel(weight, dtype) for _, weight, _ in blocks[:-1]),
        down_slopes=tuple(slope.to(exact) for slope in down_slopes),
        up_slopes=tuple(slope.to(exact) for slope, _, _ in blocks),
        taps=last[..., -1].contiguous(),
        heatmap_bias=bias[-1].to(exact),
        matrix=last[..., :-1].flatten(0, 1).contiguous(),
        bias=bias[:-1].to(exact),
    )


def trunk(layout: Layout, images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]) -> Maps:
    """Everything before the last block, of images, bytes or numbers in [0, 1], of any one size.

    The maps' height and width are the next multiples of 16, with zeros at the bottom and right of the images.
    """
    ops = layout.operations
    maps, norms = [_convolve(ops.canvas(images, layout.dtype), layout.down[0])], []
    for weight, slope in zip(layout.down[1:], layout.down_slopes, strict=True):
        small, norm = ops.pooled(maps[-1], slope)
        norms.append(norm)
        maps.append(_convolve(small, weight))
    x = maps.pop()
    for weight, slope in zip(layout.up, layout.up_slopes[:-1], strict=True):
        x = _convolve(ops.activation(x, maps.pop(), ops.upsampled_norm(x), norms.pop(), slope), weight)
    return Maps(x, maps[0], ops.upsampled_norm(x), norms[0])


def activation(layout: Layout, maps: Maps) -> Float[Tensor, "b c h w"]:
    """The last convolution's input at every pixel."""
    return layout.operations.activation(*maps.parts, layout.up_slopes[-1])


def heatmap(layout: Layout, maps: Maps) -> Float[Tensor, "b h w"]:
    """Heatmap logits at every pixel."""
    return layout.operations.heatmap(*maps.parts, layout.up_slopes[-1], layout.taps, layout.heatmap_bias)


def describe(layout: Layout, maps: Maps, image: Int[Tensor, " n"], points: Int[Tensor, "n 2"]) -> Float[Tensor, "n d"]:
    """Unit descriptors at pixels (x, y) of the images with the given indices in the batch."""
    height, width = maps.skip.shape[2:]
    pixels = (image * height + points[:, 1]) * width + points[:, 0]
    return _describe(layout, maps, pixels)


def _describe(layout: Layout, maps: Maps, pixels: Tensor) -> Tensor:
    return layout.operations.describe(*maps.parts, layout.up_slopes[-1], layout.matrix, layout.bias, pixels)


def detect(
    layout: Layout,
    images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"],
    sizes: Int[Tensor, "b 2"],
    n: int | None,
    window: int,
    subpixel: bool,
    allowed: Bool[Tensor, "b h2 w2"] | None = None,
) -> Detections:
    """The `n` best features of each image, or all, which is the one case that waits for the device.

    `sizes` (height, width) are those of the images without padding; `allowed`, of the padded size, is False where no
    keypoint may be. Otherwise as `disk.model.detection.nms` and `refine`.
    """
    maps = trunk(layout, images)
    logits = heatmap(layout, maps)
    keys = layout.operations.candidates(logits, sizes, window, allowed)
    keypoints, scores, pixels, counts = layout.operations.place(best(keys, n), logits, sizes, subpixel)
    descriptors = _describe(layout, maps, pixels.flatten()).unflatten(0, pixels.shape)
    return Detections.pack(keypoints, scores, descriptors, counts)


def best(keys: Int[Tensor, "b cells"], n: int | None) -> Int[Tensor, "b k"]:
    """The `n` largest keys of each image, or as many as the image with the most candidates has, largest first."""
    count = int((keys > 0).sum(1).max()) if n is None else min(n, keys.shape[1])
    return keys.topk(count, dim=1).values


def _kernel(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype).contiguous(memory_format=torch.channels_last)


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=MARGIN).contiguous(memory_format=torch.channels_last)
