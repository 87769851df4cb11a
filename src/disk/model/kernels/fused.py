"""The operations of `plain` by Triton's kernels: same signatures, same results up to rounding, no gradients.

Maps are read and written once: pooling also sums what both normalisations need, one pass upsamples, concatenates,
normalises and activates the input of an up block, and the last block's activation is never written at all.
"""

from __future__ import annotations

import torch
import triton

from disk.model.kernels.plain import INPUT_CHANNELS
from disk.model.kernels.triton_maps import (
    activation_kernel,
    canvas_kernel,
    finish_kernel,
    fold_kernel,
    normalise_kernel,
    pool_kernel,
    upsampled_kernel,
)  # fmt: skip
from disk.model.kernels.triton_points import candidates_kernel, describe_kernel, place_kernel
from disk.model.statistics import EPS
from disk.model.unet import STRIDE
from disk.model.winograd import KERNEL
from disk.shapes import Bool, Float, Int, Tensor, UInt8

NAME = "triton"  # in messages
BYTES_PER_PIXEL = 320  # most memory per pixel of an image in a batch: 250 MB at 1024x768
_BLOCK = 64  # pixels of a map at once
_PIXELS = 256  # pixels of the heatmap at once
_POINTS = 32  # keypoints described at once
_RUNS = 512  # most partial sums per image: enough programs for a GPU, few enough to add up at once
_SMALLEST = 16  # smallest side of a matrix for tensor cores


def canvas(images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"], dtype: torch.dtype) -> Float[Tensor, "b 8 _ _"]:
    """Pad images, uint8 or floats in [0, 1], of any strides, as `plain.canvas` does."""
    batch, channels, height, width = images.shape
    out = _maps(batch, INPUT_CHANNELS, height + -height % STRIDE, width + -width % STRIDE, dtype, images.device)
    canvas_kernel[(triton.cdiv(out.shape[2] * out.shape[3], _PIXELS), batch)](
        images, out, height, width, out.shape[2], out.shape[3], *images.stride(),
        1.0 if images.is_floating_point() else 255.0, channels, INPUT_CHANNELS, _PIXELS,
    )  # fmt: skip
    return out


def pooled(
    x: Float[Tensor, "b c h w"], slope: Float[Tensor, " c"]
) -> tuple[Float[Tensor, "b c h2 w2"], Float[Tensor, "b 2 c"]]:
    """2x2 average pooling, normalisation and PReLU; also returns the norm of `x` itself."""
    batch, channels, height, width = x.shape
    height, width = height // 2, width // 2
    out = _maps(batch, channels, height, width, x.dtype, x.device)
    steps, runs = _runs(height * width)
    sums = _singles(batch, runs, 4, channels, device=x.device)
    padded = triton.next_power_of_2(channels)
    pool_kernel[(runs, batch)](x, out, sums, height, width, steps, channels, padded, _BLOCK)
    norm, pooled_norm = _finish(x, sums, height * width)
    normalise_kernel[(triton.cdiv(height * width, _BLOCK), batch)](
        out, pooled_norm, slope, height * width, channels, padded, _BLOCK
    )
    return out, norm


def upsampled_norm(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 2 c"]:
    """The norm of `x` after bilinear x2 upsampling."""
    batch, channels, height, width = x.shape
    steps, runs = _runs(height * width)
    sums = _singles(batch, runs, 2, channels, device=x.device)
    upsampled_kernel[(runs, batch)](x, sums, height, width, steps, channels, triton.next_power_of_2(channels), _BLOCK)
    return _finish(x, sums, height * width)[0]


def activation(
    half: Float[Tensor, "b c1 h2 w2"],
    skip: Float[Tensor, "b c2 h w"],
    half_norm: Float[Tensor, "b 2 c1"],
    skip_norm: Float[Tensor, "b 2 c2"],
    slope: Float[Tensor, " c"],
) -> Float[Tensor, "b c h w"]:
    """Upsample `half` by bilinear x2, concatenate `skip`, normalise, PReLU."""
    batch, channels, height, width = skip.shape
    out = _maps(batch, half.shape[1] + channels, height, width, half.dtype, half.device)
    _activate(half, skip, half_norm, skip_norm, slope, out, slope, 0)
    return out


def heatmap(
    half: Float[Tensor, "b c1 h2 w2"],
    skip: Float[Tensor, "b c2 h w"],
    half_norm: Float[Tensor, "b 2 c1"],
    skip_norm: Float[Tensor, "b 2 c2"],
    slope: Float[Tensor, " c"],
    taps: Float[Tensor, "25 c"],
    bias: Float[Tensor, ""],
) -> Float[Tensor, "b h w"]:
    """One output channel of the convolution of the `activation`, in single precision.

    taps: the kernel, in reading order
    """
    batch, _, height, width = skip.shape
    products = _singles(batch, len(taps), height, width, device=half.device)
    _activate(half, skip, half_norm, skip_norm, slope, products, taps, len(taps))
    out = _singles(batch, height, width, device=half.device)
    fold_kernel[(triton.cdiv(height * width, _PIXELS), batch)](products, bias, out, height, width, KERNEL, _PIXELS)
    return out


def candidates(
    heatmap: Float[Tensor, "b h w"],
    sizes: Int[Tensor, "b 2"],
    window: int,
    allowed: Bool[Tensor, "b h w"] | None = None,
) -> Int[Tensor, "b cells"]:
    """The keys of the local maxima, as `plain.candidates` returns them."""
    batch, height, width = heatmap.shape
    cell = window // 2 + 1
    cells = triton.cdiv(height, cell) * triton.cdiv(width, cell)
    keys = torch.empty(batch, cells, dtype=torch.int64, device=heatmap.device)
    candidates_kernel[(triton.cdiv(cells, _PIXELS), batch)](
        heatmap, sizes, sizes if allowed is None else allowed, keys, height, width, window // 2,
        allowed is not None, _PIXELS,
    )  # fmt: skip
    return keys


def place(
    keys: Int[Tensor, "b k"], heatmap: Float[Tensor, "b h w"], sizes: Int[Tensor, "b 2"], subpixel: bool
) -> tuple[Float[Tensor, "b k 2"], Float[Tensor, "b k"], Int[Tensor, "b k"], Int[Tensor, " b"]]:
    """Decode keys to keypoints, scores, pixels and counts, as `plain.place` does."""
    batch, points = keys.shape
    _, height, width = heatmap.shape
    keypoints = _singles(batch, points, 2, device=keys.device)
    scores = _singles(batch, points, device=keys.device)
    pixels = torch.empty(batch, points, dtype=torch.int64, device=keys.device)
    counts = torch.empty(batch, dtype=torch.int64, device=keys.device)
    if not points:
        counts.zero_()
    else:
        place_kernel[(triton.cdiv(points, _PIXELS), batch)](
            keys, heatmap, sizes, keypoints, scores, pixels, counts, height, width, points, subpixel, _PIXELS
        )
    return keypoints, scores, pixels, counts


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
    """The other output channels at some pixels, as unit vectors, as `plain.describe` returns them."""
    height, width = skip.shape[2:]
    out = _singles(len(pixels), len(bias), device=half.device)
    if len(pixels):
        describe_kernel[(triton.cdiv(len(pixels), _POINTS),)](
            half, skip, half_norm, skip_norm, slope, matrix, bias, pixels, out, height, width, len(pixels),
            half.shape[1], skip.shape[1], _power(half.shape[1]), _power(skip.shape[1]), len(bias), _power(len(bias)),
            KERNEL, _POINTS,
            # single precision: a pipeline does not fit into every GPU's shared memory, nor do the sums into four warps
            num_stages=1 if half.dtype == torch.float32 else 2,
            num_warps=8,
        )  # fmt: skip
    return out


def _activate(
    half: Tensor, skip: Tensor, half_norm: Tensor, skip_norm: Tensor, slope: Tensor, out: Tensor, taps: Tensor,
    count: int,
) -> None:  # fmt: skip
    batch, channels, height, width = skip.shape
    activation_kernel[(triton.cdiv(height * width, _BLOCK), batch)](
        half, skip, half_norm, skip_norm, slope, out, taps, height, width,
        half.shape[1], channels, _power(half.shape[1]), _power(channels), count, _BLOCK,
    )  # fmt: skip


def _finish(x: Tensor, sums: Tensor, pixels: int) -> Tensor:
    """The norms (kinds, B, 2, C) of sums (B, runs, 2 kinds, C)."""
    batch, runs, twice, channels = sums.shape
    norms = _singles(twice // 2, batch, 2, channels, device=x.device)
    finish_kernel[(triton.cdiv(channels, _SMALLEST), batch)](
        x, sums, norms, runs, pixels, x.stride(0), EPS, channels, twice // 2, triton.next_power_of_2(runs),
        _SMALLEST,
    )  # fmt: skip
    return norms


def _runs(pixels: int) -> tuple[int, int]:
    """The number of blocks in a run, and the number of runs that cover an image."""
    blocks = triton.cdiv(pixels, _BLOCK)
    # powers of two, because Triton compiles a kernel for each number of blocks
    steps = triton.next_power_of_2(triton.cdiv(blocks, _RUNS))
    return steps, triton.cdiv(blocks, steps)


def _maps(batch: int, channels: int, height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(batch, channels, height, width, dtype=dtype, device=device, memory_format=torch.channels_last)


def _singles(*shape: int, device: torch.device) -> Tensor:
    """Memory for single precision, whatever torch's default is."""
    return torch.empty(shape, dtype=torch.float32, device=device)


def _power(channels: int) -> int:
    return max(_SMALLEST, triton.next_power_of_2(channels))
