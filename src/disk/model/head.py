"""The last block of the U-Net, evaluated only where its result is used.

Evaluated densely, this block (upsample, concatenate, normalise, PReLU, 5x5 convolution to 129 channels at full
resolution) is 80 % of the arithmetic of DISK. The heatmap needs one of the 129 channels everywhere; the other 128 are
needed only at the keypoints. The result is exact up to rounding, because

- the statistics of the normalisation are known before upsampling, and the division by the standard deviation moves
  into the weights (`disk.model.statistics`);
- a convolution with one output channel equals a 1x1 convolution to 25 channels followed by 25 shifted additions, which
  needs a twentieth of the memory traffic and runs in strips of rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from disk.blocks import blocks, rows_at_once
from disk.model import strips
from disk.model.statistics import Encoding
from disk.model.strips import Strip, Workspace
from disk.model.winograd import KERNEL, MARGIN
from disk.products import multiply
from disk.shapes import Float, Int, Tensor
from disk.workers import share

_TAPS = KERNEL * KERNEL
_POINTS_AT_ONCE = 512


def heatmap(
    encoding: Encoding,
    slope: Float[Tensor, " c"],
    weight: Float[Tensor, "c 5 5"],
    bias: Float[Tensor, ""],
) -> Float[Tensor, "b h w"]:
    """One output channel of the last block at every pixel."""
    # tap (dy, dx) of the kernel sees the pixel at +(dy, dx), so a pixel adds to its neighbour at -(dy, dx)
    taps = weight.flip(1, 2).permute(1, 2, 0).reshape(1, _TAPS, -1) * encoding.scale[:, None, :]
    return _Heatmap.apply(encoding.half, encoding.skip, slope, taps) + bias


def describe(
    half: Float[Tensor, "c1 h2 w2"],
    skip: Float[Tensor, "c2 h w"],
    scale: Float[Tensor, " c"],
    points: Int[Tensor, "n 2"],
    slope: Float[Tensor, " c"],
    weight: Float[Tensor, "d c 5 5"],
    bias: Float[Tensor, " d"],
) -> Float[Tensor, "n d"]:
    """Many output channels of the last block at some pixels (x, y) of one image.

    half, skip, scale: the image's part of the `Encoding`
    """
    matrix = weight.permute(0, 2, 3, 1).flatten(1)
    out = []
    for chunk in points.split(_POINTS_AT_ONCE):
        arguments = (half, skip, scale, chunk, slope, matrix, bias)
        if torch.is_grad_enabled():
            # rebuild the neighbourhoods, 2000 numbers per point, in the backward pass instead of keeping them
            out.append(checkpoint(_describe_points, *arguments, use_reentrant=False, preserve_rng_state=False))
        else:
            out.append(_describe_points(*arguments))
    return torch.cat(out) if out else matrix.new_zeros(0, len(matrix))


def _describe_points(
    half: Tensor, skip: Tensor, scale: Tensor, points: Tensor, slope: Tensor, matrix: Tensor, bias: Tensor
) -> Tensor:
    _, height, width = skip.shape
    x, y = points.unbind(1)
    offsets = torch.arange(-MARGIN, MARGIN + 1, device=points.device)
    window_y, window_x = y[:, None] + offsets, x[:, None] + offsets
    inside = ((window_y >= 0) & (window_y < height))[:, :, None] & ((window_x >= 0) & (window_x < width))[:, None, :]
    full = _gather(skip, window_y.clamp(0, height - 1), window_x.clamp(0, width - 1))

    # the 5x5 window of the upsampled map is a linear function of 4x4 samples of the map
    four = torch.arange(4, device=points.device)
    coarse_y = ((y - 3).div(2, rounding_mode="floor")[:, None] + four).clamp(0, height // 2 - 1)
    coarse_x = ((x - 3).div(2, rounding_mode="floor")[:, None] + four).clamp(0, width // 2 - 1)
    coarse = _gather(half, coarse_y, coarse_x)
    upsampling = window_upsampling(half)[(y % 2) * 2 + x % 2]
    window = torch.cat([upsampling @ coarse, full], 2)

    scale = scale * inside.flatten(1)[:, :, None]
    activation = F.prelu(window.flatten(0, 1), slope).view_as(window) * scale
    return multiply(activation.flatten(1).to(matrix.dtype), matrix) + bias


def _gather(plane: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Sample plane (C, H, W) on the grids y (N, k) by x (N, k): (N, k*k, C)."""
    index = (y[:, :, None] * plane.shape[2] + x[:, None, :]).flatten(1)
    # embedding and gather, because the backward pass of indexing is slow on the CPU
    if plane.stride(0) == 1:  # channels innermost
        return F.embedding(index, plane.permute(1, 2, 0).flatten(0, 1))
    values = torch.gather(plane.flatten(1), 1, index.reshape(1, -1).expand(len(plane), -1))
    return values.view(len(plane), *index.shape).permute(1, 2, 0)


def window_upsampling(like: Tensor) -> Tensor:
    """Bilinear x2 from 4x4 samples to the 5x5 window (4, 25, 16), for each parity 2*(y%2) + x%2 of its centre."""
    even = [[1, 3, 0, 0], [0, 3, 1, 0], [0, 1, 3, 0], [0, 0, 3, 1], [0, 0, 1, 3]]
    odd = [[3, 1, 0, 0], [1, 3, 0, 0], [0, 3, 1, 0], [0, 1, 3, 0], [0, 0, 3, 1]]
    axis = torch.tensor([even, odd], dtype=like.dtype, device=like.device) / 4
    return torch.stack([torch.kron(axis[i], axis[j]) for i in (0, 1) for j in (0, 1)])


class _Heatmap(torch.autograd.Function):
    """The one-channel convolution in strips of rows; the backward pass rebuilds each strip.

    half (B, C1, H/2, W/2), skip (B, C2, H, W), slope (C1+C2,), taps (B, 25, C1+C2) -> (B, H, W) of the taps' dtype.
    """

    @staticmethod
    def forward(ctx: Any, half: Tensor, skip: Tensor, slope: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(half, skip, slope, taps)
        batch, _, height, width = skip.shape
        workspace = Workspace(taps)

        def add_up(part: tuple[int, slice]) -> Tensor:
            """The contribution of a strip to the heatmap, including the rows in its margin."""
            b, rows = part
            activation = Strip(half[b], skip[b], slope, rows, workspace).activation()
            # the contribution of each pixel to each of its 25 neighbours
            products = multiply(taps[b], activation.flatten(0, 1)).view(KERNEL, KERNEL, -1, width)
            height = products.shape[2]
            columns = taps.new_zeros(KERNEL, height + 2 * MARGIN, width)
            total = taps.new_zeros(height + 2 * MARGIN, width + 2 * MARGIN)
            for dy in range(KERNEL):
                columns[:, dy : dy + height] += products[dy]
            for dx in range(KERNEL):
                total[:, dx : dx + width] += columns[dx]
            return total

        out = taps.new_zeros(batch, height + 2 * MARGIN, width + 2 * MARGIN)
        parts = [(b, rows) for b in range(batch) for rows in _strips(skip, len(slope))]
        with torch.autocast(skip.device.type, enabled=False):
            for (b, rows), total in zip(parts, share(add_up, parts, skip.device), strict=True):
                out[b, rows.start : rows.stop + 2 * MARGIN] += total
        return out[:, MARGIN:-MARGIN, MARGIN:-MARGIN].contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        half, skip, slope, taps = ctx.saved_tensors
        grad_half, grad_skip = torch.zeros_like(half), torch.zeros_like(skip)
        grad_slope, grad_taps = torch.zeros_like(slope), torch.zeros_like(taps)
        padded = F.pad(grad, (MARGIN,) * 4)
        workspace = Workspace(taps)
        with torch.autocast(skip.device.type, enabled=False):
            for b in range(len(skip)):
                windows = padded[b].unfold(0, skip.shape[2], 1).unfold(1, skip.shape[3], 1)
                for rows in _strips(skip, len(slope)):
                    strip = Strip(half[b], skip[b], slope, rows, workspace)
                    products = windows[:, :, rows].reshape(_TAPS, -1)
                    grad_taps[b].addmm_(products, strip.activation().flatten(0, 1))
                    activation = (products.T @ taps[b]).view_as(strip.map)
                    strip.backward(activation, grad_half[b], grad_skip[b], grad_slope)
        return grad_half, grad_skip, grad_slope, grad_taps


def _strips(skip: Tensor, channels: int) -> list[slice]:
    """The rows of each strip, an even number."""
    return blocks(skip.shape[2], 2 * rows_at_once(2 * skip.shape[3] * channels, skip.device, strips.STRIP_ELEMENTS))
