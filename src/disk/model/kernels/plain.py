"""The operations in plain torch, on a whole batch, any device and any precision; those on maps have gradients.

Maps are (B, C, H, W) with channels innermost. A `norm` (B, 2, C) holds the scale and the shift that normalise each
channel of each image; it is in single precision at least, for maps of any precision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from disk.model.statistics import EPS, gram
from disk.model.unet import STRIDE
from disk.model.winograd import KERNEL, MARGIN
from disk.shapes import Bool, Float, Int, Tensor, UInt8

NAME = "torch"  # in messages
BYTES_PER_PIXEL = 1100  # most memory per pixel of an image in a batch, in single precision
_LAST = 0xFFFFFFFF  # a key stores this minus the pixel's index
INPUT_CHANNELS = 8  # tensor cores need a multiple of 8 channels


def canvas(images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"], dtype: torch.dtype) -> Float[Tensor, "b 8 _ _"]:
    """Pad images, uint8 or floats in [0, 1], with zeros to the channels and size that the network reads."""
    height, width = images.shape[2:]
    maps = images.to(dtype) if images.is_floating_point() else images.to(_exact(dtype)).div(255).to(dtype)
    room = (0, -width % STRIDE, 0, -height % STRIDE, 0, INPUT_CHANNELS - images.shape[1])
    return F.pad(maps, room).contiguous(memory_format=torch.channels_last)


def pooled(
    x: Float[Tensor, "b c h w"], slope: Float[Tensor, " c"]
) -> tuple[Float[Tensor, "b c h2 w2"], Float[Tensor, "b 2 c"]]:
    """2x2 average pooling, normalisation and PReLU; also returns the norm of `x` itself."""
    small = F.avg_pool2d(x, 2)
    return _activate(small, _norm(small), slope), _norm(x)


def upsampled_norm(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 2 c"]:
    """The norm of `x` after bilinear x2 upsampling."""
    return _norm(x, upsampled=True)


def activation(
    half: Float[Tensor, "b c1 h2 w2"],
    skip: Float[Tensor, "b c2 h w"],
    half_norm: Float[Tensor, "b 2 c1"],
    skip_norm: Float[Tensor, "b 2 c2"],
    slope: Float[Tensor, " c"],
) -> Float[Tensor, "b c h w"]:
    """Upsample `half` by bilinear x2, concatenate `skip`, normalise, PReLU."""
    # keep no reference to the upsampled map, the second largest of all
    both = torch.cat([F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False), skip], 1)
    return _activate(both, torch.cat([half_norm, skip_norm], 2), slope)


def heatmap(
    half: Float[Tensor, "b c1 h2 w2"],
    skip: Float[Tensor, "b c2 h w"],
    half_norm: Float[Tensor, "b 2 c1"],
    skip_norm: Float[Tensor, "b 2 c2"],
    slope: Float[Tensor, " c"],
    taps: Float[Tensor, "25 c"],
    bias: Float[Tensor, ""],
) -> Float[Tensor, "b h w"]:
    """One output channel of the convolution of the `activation`, in single precision at least.

    taps: the kernel, in reading order
    """
    pixels = activation(half, skip, half_norm, skip_norm, slope).permute(0, 2, 3, 1)
    batch, height, width, _ = pixels.shape
    # tap (dy, dx) sees the pixel at +(dy, dx), so a pixel adds to its neighbour at -(dy, dx)
    products = (pixels.reshape(batch, height * width, -1) @ taps.flip(0).T).to(bias.dtype)
    return F.fold(products.transpose(1, 2), (height, width), KERNEL, padding=MARGIN)[:, 0] + bias


def describe(
    half: Float[Tensor, "b c1 h2 w2"],
    skip: Float[Tensor, "b c2 h w"],
    half_norm: Float[Tensor, "b 2 c1"],
    skip_norm: Float[Tensor, "b 2 c2"],
    slope: Float[Tensor, " c"],
    matrix: Float[Tensor, "k d"],
    bias: Float[Tensor, " d"],
    pixels: Int[Tensor, " n"],
) -> Float[Tensor, "n d"]:
    """The other output channels at some pixels, as unit vectors in single precision at least.

    matrix: a row for each tap, in reading order, and channel
    pixels: indices into the batch in reading order; a negative index gives zeros
    """
    height, width = skip.shape[2:]
    found = pixels >= 0
    row, x = (pixels * found) // width, (pixels * found) % width
    image, y = row // height, row % height
    offsets = torch.arange(-MARGIN, MARGIN + 1, device=pixels.device)
    window_y, window_x = y[:, None] + offsets, x[:, None] + offsets
    inside = ((window_y >= 0) & (window_y < height))[:, :, None] & ((window_x >= 0) & (window_x < width))[:, None]
    full = _gather(skip, image, window_y, window_x)

    # the 5x5 window of the upsampled map is a linear function of 4x4 samples of the map
    four = torch.arange(4, device=pixels.device)
    coarse_y, coarse_x = (((at - MARGIN - 1) >> 1)[:, None] + four for at in (y, x))
    rows, columns = _window_upsampling(y, half.dtype), _window_upsampling(x, half.dtype)
    coarse = _gather(half, image, coarse_y, coarse_x).unflatten(1, (4, 4))
    coarse = torch.einsum("nyi,nxj,nijc->nyxc", rows, columns, coarse).flatten(1, 2)

    norm = torch.cat([half_norm, skip_norm], 2).index_select(0, image)
    windows = _activate(torch.cat([coarse, full], 2).transpose(1, 2)[..., None], norm, slope)[..., 0].transpose(1, 2)
    windows = windows * inside.flatten(1)[:, :, None]
    return F.normalize((windows.flatten(1) @ matrix).to(bias.dtype) + bias, dim=1) * found[:, None]


def candidates(
    heatmap: Float[Tensor, "b h w"],
    sizes: Int[Tensor, "b 2"],
    window: int,
    allowed: Bool[Tensor, "b h w"] | None = None,
) -> Int[Tensor, "b cells"]:
    """The local maxima that `disk.model.detection.nms` finds, as keys: the larger of two keys is the better one.

    A key has the score's bits first, then the pixel's position in reading order; 0 is no candidate. There is one key
    for each cell of window // 2 + 1 pixels a side: a cell has at most one local maximum, because each window around a
    pixel of the cell contains the whole cell.
    sizes: (height, width) of the top-left part of each heatmap that counts
    allowed: drops local maxima where it is False; their neighbours stay suppressed
    """
    _, height, width = heatmap.shape
    reach = window // 2
    cell = reach + 1
    at = [torch.arange(size, device=heatmap.device) for size in (height, width)]
    valid = (at[0] < sizes[:, :1])[:, :, None] & (at[1] < sizes[:, 1:])[:, None]
    heatmap = torch.where(valid, heatmap.float(), -torch.inf)
    filled = F.pad(heatmap, (0, -width % cell, 0, -height % cell), value=-torch.inf)
    score, within = filled.unfold(1, cell, cell).unfold(2, cell, cell).flatten(3).max(3)
    y, x = at[0][::cell, None] + within // cell, at[1][::cell] + within % cell
    y, x, score = y.flatten(1), x.flatten(1), score.flatten(1)
    pixel = y * width + x

    highest = F.max_pool2d(F.max_pool2d(heatmap, (1, window), 1, (0, reach)), (window, 1), 1, (reach, 0))
    kept = (score > 0) & (score == highest.flatten(1).gather(1, pixel))
    # on a plateau only the first pixel of a window, in reading order, is its arg-max
    before = torch.arange(window * window // 2, device=heatmap.device)
    before_y, before_x = y[..., None] + before // window - reach, x[..., None] + before % window - reach
    inside = (before_y >= 0) & (before_x >= 0) & (before_x < width)
    index = before_y.clamp(min=0) * width + before_x.clamp(0, width - 1)
    earlier = heatmap.flatten(1).gather(1, index.flatten(1)).view_as(index)
    kept &= ~(inside & (earlier == score[..., None])).any(2)
    if allowed is not None:
        kept &= allowed.flatten(1).gather(1, pixel)
    return torch.where(kept, (score.view(torch.int32).long() << 32) | (_LAST - pixel), 0)


def place(
    keys: Int[Tensor, "b k"], heatmap: Float[Tensor, "b h w"], sizes: Int[Tensor, "b 2"], subpixel: bool
) -> tuple[Float[Tensor, "b k 2"], Float[Tensor, "b k"], Int[Tensor, "b k"], Int[Tensor, " b"]]:
    """Decode keys: keypoints, scores, pixels as indices into the batch in reading order, and counts.

    Beyond the count, keypoints and scores are 0 and pixels are -1.
    keys: of `candidates`, in descending order
    subpixel: whether to move keypoints as `disk.model.detection.refine` does
    """
    _, height, width = heatmap.shape
    found = keys > 0
    pixel = torch.where(found, _LAST - (keys & _LAST), 0)
    scores = (keys >> 32).int().view(torch.float32)
    keypoints = []
    for at, size, step in ((pixel % width, sizes[:, 1:], 1), (pixel // width, sizes[:, :1], width)):
        moved = at.float()
        if subpixel:
            last = height * width - 1
            before, after = (
                heatmap.flatten(1).gather(1, (pixel + side).clamp(0, last)).float() for side in (-step, step)
            )
            curvature = 2 * scores - before - after
            is_peak = (at > 0) & (at < size - 1) & (scores >= before) & (scores >= after) & (curvature > 0)
            moved = moved + torch.where(is_peak, (after - before) / (2 * curvature), 0.0)
        keypoints.append(moved * found)
    first = torch.arange(len(keys), device=keys.device)[:, None] * (height * width)
    return torch.stack(keypoints, 2), scores * found, torch.where(found, first + pixel, -1), found.sum(1)


def _gather(maps: Tensor, image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Sample maps (B, C, H, W) on the grids y (N, k) by x (N, k), clamped to the image: (N, k*k, C)."""
    _, channels, height, width = maps.shape
    row = image[:, None] * height + y.clamp(0, height - 1)
    index = row[:, :, None] * width + x.clamp(0, width - 1)[:, None]
    pixels = maps.permute(0, 2, 3, 1).reshape(-1, channels)
    return pixels.index_select(0, index.flatten()).view(len(y), -1, channels)


def _window_upsampling(middle: Tensor, dtype: torch.dtype) -> Tensor:
    """Bilinear x2 along an axis, from 4 samples to the window around each middle (N,): (N, 5, 4), exact quarters."""
    fine, coarse = (torch.arange(count, device=middle.device) for count in (KERNEL, KERNEL - 1))
    place = 0.75 - 0.5 * (middle % 2)[:, None] + 0.5 * fine
    return (1 - (place[:, :, None] - coarse).abs()).clamp(min=0).to(dtype)


def _activate(x: Tensor, norm: Tensor, slope: Tensor) -> Tensor:
    return F.prelu(_Normalise.apply(x, norm), slope.to(x.dtype))


class _Normalise(torch.autograd.Function):
    """Normalise x (B, C, H, W) by its norm, in the norm's precision, rounded to that of x.

    For a nearly constant channel the scale is large, so a rounded shift would give noise instead of 0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor) -> Tensor:
        ctx.save_for_backward(x, norm)
        scale, shift = norm[..., None, None].unbind(1)
        return torch.addcmul(shift, x, scale, out=torch.empty_like(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, norm = ctx.saved_tensors
        grad_norm = [part.sum((2, 3), dtype=norm.dtype) for part in (grad * x, grad)]
        return grad * norm[:, 0, :, None, None].to(x.dtype), torch.stack(grad_norm, 1)


def _norm(x: Tensor, upsampled: bool = False) -> Tensor:
    mean, variance = _Moments.apply(x, upsampled)
    scale = torch.rsqrt(variance + EPS)
    return torch.stack([scale, -mean * scale], 1)


class _Moments(torch.autograd.Function):
    """Mean and variance of each channel of each image, or of its x2 upsampled map (`disk.model.statistics`).

    Written by hand because autograd would keep a map in single precision for each of them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, upsampled: bool) -> tuple[Tensor, Tensor]:
        mean = x.mean((2, 3), dtype=_exact(x.dtype))
        ctx.save_for_backward(x, mean)
        ctx.upsampled = upsampled
        centred, filtered = _centred(x, mean, upsampled)
        return mean, (centred * filtered).mean((2, 3))

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> tuple[Tensor, None]:
        x, mean = ctx.saved_tensors
        count = x.shape[2] * x.shape[3]
        _, filtered = _centred(x, mean, ctx.upsampled)
        mean_part, variance_part = (g[..., None, None] / count for g in (grad_mean, 2 * grad_variance))
        return torch.addcmul(mean_part, filtered, variance_part).to(x.dtype), None


def _centred(x: Tensor, mean: Tensor, upsampled: bool) -> tuple[Tensor, Tensor]:
    centred = x - mean[..., None, None]
    return centred, gram(gram(centred, 2), 3) if upsampled else centred


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
