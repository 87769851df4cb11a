"""The statistics for the instance normalisation of an up block, computed without upsampling.

Bilinear upsampling reproduces constants, and every input sample has the same total weight, so the upsampled map has the
mean of the map, and its variance is a quadratic form of the map. The PReLU is positively homogeneous,
PReLU(r x) = r PReLU(x) for r > 0, so the division by the standard deviation can move into the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from disk.blocks import blocks, rows_at_once
from disk.model import strips
from disk.shapes import Float, Tensor

EPS = 1e-5  # added to the variance in every instance normalisation
# with the bilinear x2 operator U, U^T U / 2 is the filter (side, centre, side)
_CENTRE, _SIDE = 0.625, 0.1875


@dataclass(frozen=True)
class Encoding:
    """The input of an up block for a batch of images.

    half: (B, C1, H/2, W/2) input of the upsampling, minus its mean over the image
    skip: (B, C2, H, W) skip connection, minus its mean over the image
    scale: (B, C1+C2) inverse standard deviation of the concatenation of the upsampled map and the skip connection
    """

    half: Float[Tensor, "b c1 h2 w2"]
    skip: Float[Tensor, "b c2 h w"]
    scale: Float[Tensor, "b c"]


def encode(half: Float[Tensor, "b c1 h2 w2"], skip: Float[Tensor, "b c2 h w"]) -> Encoding:
    """Prepare the normalisation of `half`, upsampled, concatenated with `skip`; without gradients, overwrites both."""
    half, half_variance = _Centre.apply(half, True)
    skip, skip_variance = _Centre.apply(skip, False)
    return Encoding(half, skip, torch.rsqrt(torch.cat([half_variance, skip_variance], 1) + EPS))


class _Centre(torch.autograd.Function):
    """(x - mean, variance) over each image; the variance of the x2 upsampled map if `upsampled`.

    With the bilinear x2 operator U along one axis, U^T U is the 3-tap filter (0.375, 1.25, 0.375) with replicated
    borders, so sum((U x)^2) = sum(x * filter(x)). Written by hand because autograd would keep every intermediate.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, upsampled: bool) -> tuple[Tensor, Tensor]:
        mean = x.mean((2, 3), keepdim=True, dtype=_statistics_dtype(x))
        # without gradients x is no longer needed, and allocating a map of this size costs more than the subtraction
        centred = x - mean.to(x.dtype) if any(ctx.needs_input_grad) else x.sub_(mean.to(x.dtype))
        variance = _mean_square(centred, upsampled)
        ctx.save_for_backward(centred)
        ctx.upsampled = upsampled
        return centred, variance

    @staticmethod
    def backward(ctx: Any, grad_centred: Tensor, grad_variance: Tensor) -> tuple[Tensor, None]:
        (centred,) = ctx.saved_tensors
        factor = (2 / (centred.shape[2] * centred.shape[3])) * grad_variance[:, :, None, None]
        filtered = gram(gram(centred, 2), 3) if ctx.upsampled else centred
        # the filter keeps the mean, so the second term is already centred
        grad = torch.addcmul(grad_centred, filtered, factor.to(centred.dtype))
        return grad.sub_(grad_centred.mean((2, 3), keepdim=True)), None


def _mean_square(centred: Tensor, upsampled: bool) -> Tensor:
    """The mean square (B, C) of the map, or of the upsampled map, computed in blocks of rows."""
    batch, channels, height, width = centred.shape
    total = centred.new_zeros(batch, channels, dtype=_statistics_dtype(centred))
    for part in blocks(height, rows_at_once(batch * channels * width, centred.device, strips.STRIP_ELEMENTS)):
        rows = centred[:, :, part.start : part.stop + 1].to(total.dtype)
        own = rows[:, :, : part.stop - part.start]
        if not upsampled:
            total += own.square().sum((2, 3))
            continue
        filtered = gram(own, 3)
        total += _CENTRE * (own * filtered).sum((2, 3))
        # the filter along the columns is symmetric: each pair of rows counts twice
        if rows.shape[2] > 1:
            total += 2 * _SIDE * (filtered[:, :, : rows.shape[2] - 1] * rows[:, :, 1:]).sum((2, 3))
        if part.start == 0:
            total += _SIDE * (own[:, :, 0] * filtered[:, :, 0]).sum(2)
        if part.stop == height:
            total += _SIDE * (own[:, :, -1] * filtered[:, :, -1]).sum(2)
    return total / (height * width)


def _statistics_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def gram(x: Tensor, axis: int) -> Tensor:
    """(U^T U) x / 2 along an axis, for the bilinear x2 operator U."""
    size = x.shape[axis]
    out = x * _CENTRE
    out.narrow(axis, 1, size - 1).add_(x.narrow(axis, 0, size - 1), alpha=_SIDE)
    out.narrow(axis, 0, size - 1).add_(x.narrow(axis, 1, size - 1), alpha=_SIDE)
    out.narrow(axis, 0, 1).add_(x.narrow(axis, 0, 1), alpha=_SIDE)
    out.narrow(axis, size - 1, 1).add_(x.narrow(axis, size - 1, 1), alpha=_SIDE)
    return out
