"""DISK on a whole batch at once, channels innermost, in any precision: for inference and training on a GPU.

    layout = lay_out(model.unet, torch.bfloat16)
    maps = trunk(layout, images)
    heatmap(layout, maps)
    describe(layout, maps, image, points)

Gradients reach the parameters through `lay_out`, which casts each of them once; statistics, heatmap and descriptors
are in single precision at least. Only the last convolution uses its bias: every other convolution is followed by a
normalisation, at most after pooling or upsampling. Both preserve constants, so subtracting the mean removes the bias.
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
    """The weights of a U-Net in one precision, channels innermost; slopes and biases in single precision at least.

    down, up: the convolutions (O, C, 5, 5), without the last one; the first has 8 input channels
    down_slopes, up_slopes: of the PReLU before each convolution, except the first
    taps: (25, C), the kernel of the heatmap in the last convolution, in reading order
    heatmap_bias: the bias of the heatmap
    matrix: (25 C, D), the other kernels of the last convolution, by tap and channel
    bias: (D,), the biases of these kernels
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
        """The precision of the maps."""
        return self.taps.dtype

    @property
    def operations(self) -> ModuleType:
        """The module of operations, Triton's or plain torch's (`disk.model.kernels`)."""
        return kernels.operations(self.taps.device, self.dtype)


@dataclass(frozen=True)
class Maps:
    """The input of the last block: the map to upsample, the skip connection, and their norms."""

    half: Float[Tensor, "b c1 h2 w2"]
    skip: Float[Tensor, "b c2 h w"]
    half_norm: Float[Tensor, "b 2 c1"]
    skip_norm: Float[Tensor, "b 2 c2"]

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All fields, in the order of the operations' parameters."""
        return self.half, self.skip, self.half_norm, self.skip_norm


def lay_out(unet: UNet, dtype: torch.dtype) -> Layout:
    """Lay out the weights of a DISK network, with the heatmap as last output channel, in `dtype`; with gradients."""
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
    """Run everything before the last block on images of one size, uint8 or floats in [0, 1].

    Pads the images with zeros at the bottom and right to the next multiples of 16.
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
    """The input of the last convolution at every pixel."""
    return layout.operations.activation(*maps.parts, layout.up_slopes[-1])


def heatmap(layout: Layout, maps: Maps) -> Float[Tensor, "b h w"]:
    """Heatmap logits at every pixel."""
    return layout.operations.heatmap(*maps.parts, layout.up_slopes[-1], layout.taps, layout.heatmap_bias)


def describe(layout: Layout, maps: Maps, image: Int[Tensor, " n"], points: Int[Tensor, "n 2"]) -> Float[Tensor, "n d"]:
    """Unit descriptors at pixels (x, y) of images, given by their index in the batch."""
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
    """Detect features in each image, otherwise as `disk.model.detection.nms` and `refine`.

    sizes: (height, width) of the images without padding
    n: keypoint budget; None: all, the only case that waits for the device
    window: side of the non-maximum suppression window in pixels, odd
    subpixel: whether to refine keypoints to subpixel peaks
    allowed: of the padded size, False where no keypoint may be
    """
    maps = trunk(layout, images)
    logits = heatmap(layout, maps)
    keys = layout.operations.candidates(logits, sizes, window, allowed)
    keypoints, scores, pixels, counts = layout.operations.place(best(keys, n), logits, sizes, subpixel)
    descriptors = _describe(layout, maps, pixels.flatten()).unflatten(0, pixels.shape)
    return Detections.pack(keypoints, scores, descriptors, counts)


def best(keys: Int[Tensor, "b cells"], n: int | None) -> Int[Tensor, "b k"]:
    """The `n` largest keys of each image, largest first; n None: as many as the largest number of candidates."""
    count = int((keys > 0).sum(1).max()) if n is None else min(n, keys.shape[1])
    return keys.topk(count, dim=1).values


def _kernel(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype).contiguous(memory_format=torch.channels_last)


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=MARGIN).contiguous(memory_format=torch.channels_last)
