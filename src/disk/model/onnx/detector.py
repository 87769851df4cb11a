"""Detection as one graph that `torch.onnx.export` can trace.

It has no loops over images or strips, and only the number of keypoints is a shape that depends on values. The formulas
are those of `disk.model.head` and `disk.model.detection`; the tests compare the results.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from disk.model.disk import DISK, STRIDE
from disk.model.head import window_upsampling
from disk.model.statistics import EPS
from disk.model.unet import UpBlock
from disk.model.winograd import KERNEL, MARGIN
from disk.shapes import Float, Int, Tensor, UInt8

Size = Any  # int, or torch.SymInt while tracing
Detected = tuple[Float[Tensor, "b n 2"] | Int[Tensor, "b n 2"], Float[Tensor, "b n"], Float[Tensor, "b n d"]]


class Detector(nn.Module):
    """uint8 RGB images of one size (B, H, W, 3) -> keypoints, scores and unit descriptors, best first.

    In a batch, N is the largest number of keypoints of an image. The other images are padded with rows of score 0,
    which no keypoint has.
    n: maximum number of keypoints per image; None: all
    window: side of the non-maximum suppression window in pixels, odd
    subpixel: whether to refine keypoints to subpixel peaks
    """

    def __init__(self, model: DISK, n: int | None, window: int, subpixel: bool) -> None:
        super().__init__()
        self.unet, self.desc_dim = model.unet, model.desc_dim
        self.n, self.reach, self.subpixel = n, window // 2, subpixel

    def forward(self, images: UInt8[Tensor, "b h w 3"]) -> Detected:
        height, width = images.shape[1:3]
        x = images.permute(0, 3, 1, 2).float() / 255
        # padding must be a constant here, so pad by the most that any size may need, then narrow
        # (torch 2.10 loses track of the sizes of a slice)
        x = F.pad(x, (0, STRIDE - 1, 0, STRIDE - 1))
        x = x.narrow(2, 0, _multiple(height)).narrow(3, 0, _multiple(width))
        return self.detect(x, height, width)

    def detect(self, images: Float[Tensor, "b 3 h2 w2"], height: Size, width: Size) -> Detected:
        """Features of padded images; `height` and `width` are without the padding."""
        slope, weight, bias = cast(UpBlock, self.unet.path_up[-1]).conv.weights()
        coarse, skip = self._trunk(images)
        split = coarse.shape[1]
        coarse = coarse - coarse.mean((2, 3), keepdim=True)
        skip = skip - skip.mean((2, 3), keepdim=True)
        upsampled = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
        scale = torch.cat([_one_over_deviation(upsampled), _one_over_deviation(skip)], 1)

        taps = weight[self.desc_dim].flip(1, 2).permute(2, 1, 0).reshape(1, KERNEL**2, -1) * scale[:, None]
        # two products, because concatenating the maps would cost as much as another product
        products = taps[:, :, :split] @ F.prelu(upsampled, slope[:split]).flatten(2)
        products = products + taps[:, :, split:] @ F.prelu(skip, slope[split:]).flatten(2)
        heatmap = _add_shifted(products.unflatten(2, skip.shape[2:])) + bias[self.desc_dim]

        heatmap = heatmap.narrow(1, 0, height).narrow(2, 0, width)
        scores, points = self._best(heatmap)
        y = _divide(points, width)
        x = points - y * width
        descriptors = _describe(coarse, skip, scale, x, y, slope, weight[: self.desc_dim], bias[: self.desc_dim])
        keypoints = _refine(heatmap, x, y) if self.subpixel else torch.stack([x, y], 2)
        return keypoints, scores, descriptors

    def _trunk(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x, quarter, half, full = self.unet.coarse(images)
        return self.unet.path_up[2](self.unet.path_up[1](x, quarter), half), full

    def _best(self, heatmap: Float[Tensor, "b h w"]) -> tuple[Float[Tensor, "b n"], Int[Tensor, "b n"]]:
        """Scores and indices y * width + x of the local maxima, best first; equal scores in reading order."""
        reach = self.reach
        padded = F.pad(heatmap[:, None], (reach,) * 4, value=-torch.inf)
        rows = F.max_pool2d(padded, (1, 2 * reach + 1), 1)
        sides = F.max_pool2d(padded[:, :, reach : -reach or None], (1, max(reach, 1)), 1)
        lines = F.max_pool2d(rows, (max(reach, 1), 1), 1)
        # Of equal pixels in a window, the first in reading order is a keypoint: it is greater than all before it and
        # not less than those after it. By `where`, because OpenCV has no logical operators.
        height, width = heatmap.shape[1:]
        kept = F.relu(heatmap[:, None])
        if reach:
            before = torch.maximum(lines[:, :, :height], sides[..., :width])
            after = torch.maximum(lines[:, :, reach + 1 :], sides[..., reach + 1 :])
            kept = torch.where(kept > before, kept, 0.0)
            kept = torch.where(kept >= after, kept, 0.0)
        flat = kept.flatten(1)
        most: Any = (flat > 0).sum(1).max().item()
        torch._check(most >= 0)
        torch._check(most <= flat.shape[1])
        return torch.topk(flat, most if self.n is None else torch.sym_min(most, self.n))


def _divide(numbers: Tensor, by: Size) -> Tensor:
    """Integer division of non-negative numbers.

    `//` becomes a dozen nodes to handle negative numbers, with operators that OpenCV lacks; float32 would be wrong
    above 8 million pixels.
    """
    return (numbers.double() / by).long()


def _multiple(size: Size) -> Size:
    return (size + STRIDE - 1) // STRIDE * STRIDE


def _one_over_deviation(centred: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
    square = torch.linalg.vector_norm(centred, dim=(2, 3)).square()
    return torch.rsqrt(square / (centred.shape[2] * centred.shape[3]) + EPS)


def _add_shifted(products: Float[Tensor, "b 25 h w"]) -> Float[Tensor, "b h w"]:
    """Sum the contributions of each pixel to its 25 neighbours, channel 5 dx + dy, along rows and then columns."""
    height, width = products.shape[2:]
    padded = F.pad(products, (MARGIN, MARGIN))
    starts = [2 * MARGIN - i for i in range(KERNEL)]
    columns = (padded[:, KERNEL * i : KERNEL * (i + 1), :, s : s + width] for i, s in enumerate(starts))
    padded = F.pad(reduce(add, columns), (0, 0, MARGIN, MARGIN))
    return reduce(add, (padded[:, i, s : s + height] for i, s in enumerate(starts)))


def _describe(
    coarse: Float[Tensor, "b c1 h2 w2"], skip: Float[Tensor, "b c2 h w"], scale: Float[Tensor, "b c"],
    x: Int[Tensor, "b n"], y: Int[Tensor, "b n"],
    slope: Float[Tensor, " c"], weight: Float[Tensor, "d c 5 5"], bias: Float[Tensor, " d"],
) -> Float[Tensor, "b n d"]:  # fmt: skip
    """Unit descriptors at pixels, from the 5x5 window of the skip connection and the 4x4 coarse samples under it."""
    height, width = skip.shape[2:]
    five = torch.arange(-MARGIN, MARGIN + 1)
    window_y, window_x = y[..., None] + five, x[..., None] + five
    inside_y = (window_y == window_y.clamp(0, height - 1)).to(skip.dtype)
    inside_x = (window_x == window_x.clamp(0, width - 1)).to(skip.dtype)
    inside = inside_y[..., None] * inside_x[..., None, :]
    full = _gather(skip, window_y, window_x)
    four = torch.arange(4)
    half_y, half_x = _divide(y + 1, 2), _divide(x + 1, 2)
    near = _gather(coarse, half_y[..., None] - 2 + four, half_x[..., None] - 2 + four)
    odd_y, odd_x = 2 * half_y - y, 2 * half_x - x
    upsampling = window_upsampling(coarse)[odd_y * 2 + odd_x]
    window = torch.cat([upsampling @ near, full], 3)
    activation = F.relu(window) - F.relu(-window) * slope
    activation = activation * (scale[:, None, None] * inside.flatten(2)[..., None])
    matrix = weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0])
    return F.normalize(activation.flatten(2) @ matrix + bias, dim=2)


def _gather(maps: Float[Tensor, "b c h w"], y: Int[Tensor, "b n k"], x: Int[Tensor, "b n k"]) -> Tensor:
    """Sample each image on the grids y by x, clamped to the image: (B, N, k*k, C)."""
    batch, channels, height, width = maps.shape
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    first = torch.arange(batch)[:, None, None, None] * (height * width)
    index = (first + y[..., None] * width + x[..., None, :]).flatten()
    samples = torch.index_select(maps.transpose(0, 1).flatten(1), 1, index)
    return samples.T.reshape(*y.shape[:2], y.shape[2] ** 2, channels)


def _refine(heatmap: Float[Tensor, "b h w"], x: Int[Tensor, "b n"], y: Int[Tensor, "b n"]) -> Float[Tensor, "b n 2"]:
    """Do what `disk.model.detection.refine` does."""
    height, width = heatmap.shape[1:]
    flat = heatmap.flatten(1)
    middle = torch.gather(flat, 1, y * width + x)
    moved = []
    for at, size, step in ((x, width, 1), (y, height, width)):
        here = y * width + x
        before = torch.gather(flat, 1, torch.where(at > 0, here - step, here))
        after = torch.gather(flat, 1, torch.where(at < size - 1, here + step, here))
        curvature = 2 * middle - before - after
        is_peak = (at > 0) & (at < size - 1) & (middle >= before) & (middle >= after) & (curvature > 0)
        moved.append(at + torch.where(is_peak, (after - before) / (2 * curvature), 0.0))
    return torch.stack(moved, 2)
