"""The last block of the U-Net, evaluated only where its result is used.

Densely, this block (upsample, concatenate, normalise, PReLU, 5x5 convolution to 129 channels at full resolution)
is 80 % of the arithmetic of DISK. The heatmap needs one of the 129 channels everywhere; the other 128 are
needed at the keypoints alone. Three identities make that cheap and exact up to rounding:

- Bilinear upsampling reproduces constants and every input sample has the same total weight, so the mean of the
  upsampled map is the mean of the map, and its variance is a quadratic form of the map: the statistics of the
  normalisation are known before anything is upsampled.
- PReLU is positively homogeneous, PReLU(r x) = r PReLU(x) for r > 0, so the division by the standard deviation moves
  into the weights.
- A convolution with one output channel is a 1x1 convolution to 25 channels followed by 25 shifted additions
  (a twentieth of the memory traffic), which can be done in strips of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from disk.model.unet import EPS, KERNEL
from disk.shapes import Float, Int, Tensor

_REACH = KERNEL // 2
_TAPS = KERNEL * KERNEL
# elements of a strip: a few megabytes, small beside the maps and long enough to hide the cost of a call
_STRIP_ELEMENTS = {"cpu": 1 << 21, "other": 1 << 26}
_POINTS_AT_ONCE = 2048


@dataclass(frozen=True)
class Encoding:
    """All that the last block needs to know of a batch of images.

    half: (B, 64, H/2, W/2) input of the upsampling, minus its mean over the image.
    skip: (B, 16, H, W) skip connection, minus its mean over the image.
    scale: (B, 80) one over the standard deviation of the concatenation of the upsampled map and the skip connection.
    """

    half: Float[Tensor, "b c1 h2 w2"]
    skip: Float[Tensor, "b c2 h w"]
    scale: Float[Tensor, "b c"]


def encode(half: Float[Tensor, "b c1 h2 w2"], skip: Float[Tensor, "b c2 h w"]) -> Encoding:
    """The statistics of the last block's instance normalisation, without upsampling."""
    half, half_variance = _Centre.apply(half, True)
    skip, skip_variance = _Centre.apply(skip, False)
    return Encoding(half, skip, torch.rsqrt(torch.cat([half_variance, skip_variance], 1) + EPS))


def heatmap(
    encoding: Encoding,
    slope: Float[Tensor, " c"],
    weight: Float[Tensor, "c 5 5"],
    bias: Float[Tensor, ""],
) -> Float[Tensor, "b h w"]:
    """One output channel of the last block, at every pixel."""
    # tap (dy, dx) of the kernel sees the pixel at +(dy, dx), so a pixel adds to its neighbour at -(dy, dx)
    taps = weight.flip(1, 2).permute(1, 2, 0).reshape(1, _TAPS, -1) * encoding.scale[:, None, :]
    return _Heatmap.apply(encoding.half, encoding.skip, slope, taps) + bias


def describe(
    encoding: Encoding,
    index: int,
    points: Int[Tensor, "n 2"],
    slope: Float[Tensor, " c"],
    weight: Float[Tensor, "d c 5 5"],
    bias: Float[Tensor, " d"],
) -> Float[Tensor, "n d"]:
    """Many output channels of the last block, at some pixels (x, y) of image `index` of the batch."""
    half, skip, scale = encoding.half[index], encoding.skip[index], encoding.scale[index]
    matrix = weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0])
    size = (skip.shape[1], skip.shape[2])
    out = []
    for chunk in points.split(_POINTS_AT_ONCE):
        arguments = (half.flatten(1), skip.flatten(1), size, scale, chunk, slope, matrix, bias)
        if torch.is_grad_enabled():
            # the neighbourhoods, 2000 numbers a point, are rebuilt in the backward pass instead of kept
            out.append(checkpoint(_describe_points, *arguments, use_reentrant=False, preserve_rng_state=False))
        else:
            out.append(_describe_points(*arguments))
    return torch.cat(out) if out else matrix.new_zeros(0, matrix.shape[1])


def _describe_points(
    half: Tensor, skip: Tensor, size: tuple[int, int], scale: Tensor, points: Tensor, slope: Tensor,
    matrix: Tensor, bias: Tensor,
) -> Tensor:  # fmt: skip
    height, width = size
    x, y = points.unbind(1)
    offsets = torch.arange(-_REACH, _REACH + 1, device=points.device)
    window_y, window_x = y[:, None] + offsets, x[:, None] + offsets
    inside = ((window_y >= 0) & (window_y < height))[:, :, None] & ((window_x >= 0) & (window_x < width))[:, None, :]
    full = _gather(skip, window_y.clamp(0, height - 1), window_x.clamp(0, width - 1), width)

    # the 5x5 window of the upsampled map is a linear function of 4x4 samples of the map
    four = torch.arange(4, device=points.device)
    coarse_y = ((y - 3).div(2, rounding_mode="floor")[:, None] + four).clamp(0, height // 2 - 1)
    coarse_x = ((x - 3).div(2, rounding_mode="floor")[:, None] + four).clamp(0, width // 2 - 1)
    coarse = _gather(half, coarse_y, coarse_x, width // 2)
    upsampling = _window_upsampling(half)[(y % 2) * 2 + x % 2]
    window = torch.cat([upsampling @ coarse, full], 2)

    scale = scale * inside.flatten(1)[:, :, None]
    activation = F.prelu(window.flatten(0, 1), slope).view_as(window) * scale
    return torch.addmm(bias, activation.flatten(1).to(matrix.dtype), matrix)


def _gather(plane: Tensor, y: Tensor, x: Tensor, width: int) -> Tensor:
    """plane (C, H*W) at the grid y (N, k) by x (N, k): (N, k*k, C)."""
    index = (y[:, :, None] * width + x[:, None, :]).reshape(1, -1).expand(plane.shape[0], -1)
    # gather rather than indexing, whose backward pass is slow on the CPU
    return torch.gather(plane, 1, index).view(plane.shape[0], y.shape[0], y.shape[1] * x.shape[1]).permute(1, 2, 0)


def _window_upsampling(like: Tensor) -> Tensor:
    """(4, 25, 16): bilinear x2 from 4x4 samples to the 5x5 window, for each parity 2*(y%2) + x%2 of its centre."""
    even = [[1, 3, 0, 0], [0, 3, 1, 0], [0, 1, 3, 0], [0, 0, 3, 1], [0, 0, 1, 3]]
    odd = [[3, 1, 0, 0], [1, 3, 0, 0], [0, 3, 1, 0], [0, 1, 3, 0], [0, 0, 3, 1]]
    axis = torch.tensor([even, odd], dtype=like.dtype, device=like.device) / 4
    return torch.stack([torch.kron(axis[i], axis[j]) for i in (0, 1) for j in (0, 1)])


class _Centre(torch.autograd.Function):
    """(x - mean, variance) over each image; the variance is that of the x2 upsampled map when `upsampled`.

    With U the bilinear x2 operator along one axis, U^T U is the 3-tap filter (0.375, 1.25, 0.375) with replicated
    borders, so sum((U x)^2) = sum(x * filter(x)). Written by hand because autograd would keep every intermediate.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, upsampled: bool) -> tuple[Tensor, Tensor]:
        mean = x.mean((2, 3), keepdim=True, dtype=_statistics_dtype(x))
        # without gradients nobody needs x any more, and a fresh map of this size costs more than the subtraction
        centred = x - mean.to(x.dtype) if any(ctx.needs_input_grad) else x.sub_(mean.to(x.dtype))
        # in groups of channels that stay in the cache
        group = max(1, _STRIP_ELEMENTS["cpu"] // (2 * x.shape[0] * x.shape[2] * x.shape[3]))
        variance = torch.cat([_mean_square(part, upsampled) for part in centred.split(group, 1)], 1)
        ctx.save_for_backward(centred)
        ctx.upsampled = upsampled
        return centred, variance

    @staticmethod
    def backward(ctx: Any, grad_centred: Tensor, grad_variance: Tensor) -> tuple[Tensor, None]:
        (centred,) = ctx.saved_tensors
        factor = (2 / (centred.shape[2] * centred.shape[3])) * grad_variance[:, :, None, None]
        filtered = _upsampling_gram(centred) if ctx.upsampled else centred
        # the filter keeps the mean, so the second term is centred already
        grad = torch.addcmul(grad_centred, filtered, factor.to(centred.dtype))
        return grad.sub_(grad_centred.mean((2, 3), keepdim=True)), None


def _mean_square(centred: Tensor, upsampled: bool) -> Tensor:
    wide = centred.to(_statistics_dtype(centred))
    filtered = _upsampling_gram(wide) if upsampled else wide
    return torch.linalg.vecdot(wide.flatten(2), filtered.flatten(2)) / (wide.shape[2] * wide.shape[3])


def _statistics_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _upsampling_gram(x: Tensor) -> Tensor:
    """(U^T U) x / 4 along both axes, for the bilinear x2 operator U."""
    for axis in (2, 3):
        size = x.shape[axis]
        out = x * 0.625
        out.narrow(axis, 1, size - 1).add_(x.narrow(axis, 0, size - 1), alpha=0.1875)
        out.narrow(axis, 0, size - 1).add_(x.narrow(axis, 1, size - 1), alpha=0.1875)
        out.narrow(axis, 0, 1).add_(x.narrow(axis, 0, 1), alpha=0.1875)
        out.narrow(axis, size - 1, 1).add_(x.narrow(axis, size - 1, 1), alpha=0.1875)
        x = out
    return x


class _Heatmap(torch.autograd.Function):
    """The one-channel convolution in strips of rows; the backward pass rebuilds each strip.

    half (B, C1, H/2, W/2), skip (B, C2, H, W), slope (C1+C2,), taps (B, 25, C1+C2) -> (B, H, W) float32.
    """

    @staticmethod
    def forward(ctx: Any, half: Tensor, skip: Tensor, slope: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(half, skip, slope, taps)
        batch, _, height, width = skip.shape
        out = torch.zeros(batch, height + 2 * _REACH, width + 2 * _REACH, dtype=taps.dtype, device=skip.device)
        with torch.autocast(skip.device.type, enabled=False):
            for first, last, source in _strips(half, skip):
                rows = last - first
                products = _strip_products(half[:, :, source], skip[:, :, first:last], slope, taps, first, source)
                products = products.view(batch, KERNEL, KERNEL, rows, width)
                for dy in range(KERNEL):
                    for dx in range(KERNEL):
                        out[:, first + dy : last + dy, dx : dx + width] += products[:, dy, dx]
        return out[:, _REACH:-_REACH, _REACH:-_REACH].contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        half, skip, slope, taps = ctx.saved_tensors
        grad_half, grad_skip = torch.zeros_like(half), torch.empty_like(skip)
        grad_slope, grad_taps = torch.zeros_like(slope), torch.zeros_like(taps)
        padded = F.pad(grad, (_REACH,) * 4)
        width = skip.shape[3]
        with torch.enable_grad(), torch.autocast(skip.device.type, enabled=False):
            for first, last, source in _strips(half, skip):
                inputs = [t.detach().requires_grad_() for t in (half[:, :, source], skip[:, :, first:last])]
                inputs += [t.detach().requires_grad_() for t in (slope, taps)]
                products = _strip_products(inputs[0], inputs[1], inputs[2], inputs[3], first, source)
                shifted = [
                    padded[:, first + dy : last + dy, dx : dx + width] for dy in range(KERNEL) for dx in range(KERNEL)
                ]
                grads = torch.autograd.grad(products, inputs, torch.stack(shifted, 1).flatten(2))
                grad_half[:, :, source] += grads[0]
                grad_skip[:, :, first:last] = grads[1]
                grad_slope += grads[2]
                grad_taps += grads[3]
        return grad_half, grad_skip, grad_slope, grad_taps


def _strips(half: Tensor, skip: Tensor) -> list[tuple[int, int, slice]]:
    """(first row, last row, rows of the half-resolution map they come from) for each strip."""
    budget = _STRIP_ELEMENTS["cpu" if skip.device.type == "cpu" else "other"]
    batch, channels, height, width = skip.shape
    step = max(1, budget // (2 * width * batch * (channels + half.shape[1])))
    coarse = height // 2
    return [
        (2 * a, 2 * min(a + step, coarse), slice(max(a - 1, 0), min(a + step + 1, coarse)))
        for a in range(0, coarse, step)
    ]


def _strip_products(half: Tensor, skip: Tensor, slope: Tensor, taps: Tensor, first: int, source: slice) -> Tensor:
    """(B, 25, rows*W): what each pixel of a strip adds to each of its 25 neighbours."""
    # with the channels innermost a processor interpolates many of them at once
    half = half.contiguous(memory_format=torch.channels_last)
    up = F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False)
    # one row of the half-resolution map on either side is there for the interpolation only
    up = up.narrow(2, first - 2 * source.start, skip.shape[2])
    split = half.shape[1]
    activation = F.prelu(up.to(taps.dtype), slope[:split]).permute(0, 2, 3, 1).flatten(1, 2)
    products = taps[:, :, :split] @ activation.transpose(1, 2)
    return products + taps[:, :, split:] @ F.prelu(skip.to(taps.dtype), slope[split:]).flatten(2)
