"""Triton's kernels on maps (B, H, W, C), called by `fused`.

Statistics are summed in single precision relative to a pivot, the image's first pixel, so that a mean far from zero
costs no digits. A program sums a run of pixels; `finish_kernel` adds the runs in a fixed order, so results are
deterministic.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def canvas_kernel(
    images, out, height, width, out_height, out_width, stride_b, stride_c, stride_y, stride_x, divisor,
    CHANNELS: tl.constexpr, OUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """images (B, CHANNELS, height, width), any strides, / divisor -> out (B, out_height, out_width, OUT), 0-padded."""
    b = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y, x, c = pixel // out_width, pixel % out_width, tl.arange(0, OUT)
    inside = ((y < height) & (x < width))[:, None] & (c < CHANNELS)[None, :]
    at = images + b * stride_b + (y.to(tl.int64) * stride_y + x * stride_x)[:, None] + (c * stride_c)[None, :]
    value = tl.load(at, mask=inside, other=0).to(tl.float32) / divisor
    to = out + (b * out_height * out_width + pixel)[:, None] * OUT + c[None, :]
    tl.store(to, value, mask=(pixel < out_height * out_width)[:, None])


@triton.jit
@no_type_check
def pool_kernel(
    x, out, sums, height, width, STEPS: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """x (B, 2 height, 2 width, C) -> out (B, height, width, C), the mean of 2x2 pixels.

    sums (B, runs, 4, C), relative to the pivot: of x and of its squares, divided by 4; of the means and their squares.
    """
    run, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    c = tl.arange(0, CP)
    real = c < C
    x += b * 4 * height * width * C
    out += b * height * width * C
    pivot = tl.load(x + c, mask=real, other=0.0).to(tl.float32)[None, :]
    total = tl.zeros((CP,), tl.float32)
    squares = tl.zeros((CP,), tl.float32)
    pooled_total = tl.zeros((CP,), tl.float32)
    pooled_squares = tl.zeros((CP,), tl.float32)
    for step in range(STEPS):
        pixel = (run * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
        ok = (pixel < height * width)[:, None] & real[None, :]
        at = x + (4 * width * (pixel // width) + 2 * (pixel % width)).to(tl.int64)[:, None] * C + c[None, :]
        v00 = tl.where(ok, tl.load(at, mask=ok, other=0.0).to(tl.float32) - pivot, 0.0)
        v01 = tl.where(ok, tl.load(at + C, mask=ok, other=0.0).to(tl.float32) - pivot, 0.0)
        v10 = tl.where(ok, tl.load(at + 2 * width * C, mask=ok, other=0.0).to(tl.float32) - pivot, 0.0)
        v11 = tl.where(ok, tl.load(at + 2 * width * C + C, mask=ok, other=0.0).to(tl.float32) - pivot, 0.0)
        mean = (v00 + v01 + v10 + v11) * 0.25
        stored = (mean + pivot).to(x.dtype.element_ty)
        tl.store(out + pixel.to(tl.int64)[:, None] * C + c[None, :], stored, mask=ok)
        total += tl.sum(mean, 0)
        squares += tl.sum(v00 * v00 + v01 * v01 + v10 * v10 + v11 * v11, 0) * 0.25
        # from the stored values: if all are equal, the next kernel must find them equal to their mean
        pooled = tl.where(ok, stored.to(tl.float32) - pivot, 0.0)
        pooled_total += tl.sum(pooled, 0)
        pooled_squares += tl.sum(pooled * pooled, 0)
    to = sums + (b * tl.num_programs(0) + run) * 4 * C + c
    tl.store(to, total, mask=real)
    tl.store(to + C, squares, mask=real)
    tl.store(to + 2 * C, pooled_total, mask=real)
    tl.store(to + 3 * C, pooled_squares, mask=real)


@triton.jit
@no_type_check
def _pixels(at, pixel, pivot, ok, C: tl.constexpr):
    value = tl.load(at + pixel.to(tl.int64)[:, None] * C, mask=ok, other=0.0).to(tl.float32)
    return tl.where(ok, value - pivot, 0.0)


@triton.jit
@no_type_check
def _filtered_row(at, row, left, column, right, pivot, ok, C: tl.constexpr):
    around = _pixels(at, row + left, pivot, ok, C) + _pixels(at, row + right, pivot, ok, C)
    return 0.625 * _pixels(at, row + column, pivot, ok, C) + 0.1875 * around


@triton.jit
@no_type_check
def upsampled_kernel(
    x, sums, height, width, STEPS: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, BLOCK: tl.constexpr
):
    """sums (B, runs, 2, C) of x (B, height, width, C) and of the squares of its x2 upsampled map / 4.

    Both are relative to the pivot. The second is a quadratic form of x (`disk.model.statistics`), with the filter
    (3, 10, 3) / 16 along both axes.
    """
    run, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    c = tl.arange(0, CP)
    real = c < C
    x += b * height * width * C
    pivot = tl.load(x + c, mask=real, other=0.0).to(tl.float32)[None, :]
    total = tl.zeros((CP,), tl.float32)
    squares = tl.zeros((CP,), tl.float32)
    for step in range(STEPS):
        pixel = (run * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
        ok = (pixel < height * width)[:, None] & real[None, :]
        row, column = pixel // width, pixel % width
        left, right = tl.maximum(column - 1, 0), tl.minimum(column + 1, width - 1)
        above, below = tl.maximum(row - 1, 0), tl.minimum(row + 1, height - 1)
        at = x + c[None, :]
        middle = _filtered_row(at, row * width, left, column, right, pivot, ok, C)
        around = _filtered_row(at, above * width, left, column, right, pivot, ok, C)
        around += _filtered_row(at, below * width, left, column, right, pivot, ok, C)
        value = _pixels(at, pixel, pivot, ok, C)
        total += tl.sum(value, 0)
        squares += tl.sum(value * (0.625 * middle + 0.1875 * around), 0)
    to = sums + (b * tl.num_programs(0) + run) * 2 * C + c
    tl.store(to, total, mask=real)
    tl.store(to + C, squares, mask=real)


@triton.jit
@no_type_check
def _mean_of_runs(sums, runs, pixels, real, stride: tl.constexpr, RUNS: tl.constexpr):
    run = tl.arange(0, RUNS)
    ok = (run < runs)[:, None] & real[None, :]
    return tl.sum(tl.load(sums[None, :] + run[:, None] * stride, mask=ok, other=0.0), 0) / pixels


@triton.jit
@no_type_check
def finish_kernel(
    x, sums, norms, runs, pixels, image_size, eps, C: tl.constexpr, KINDS: tl.constexpr, RUNS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """norms (KINDS, B, 2, C): scale and shift, from sums (B, runs, KINDS, 2, C) relative to the pivots of x."""
    b = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = c < C
    pivot = tl.load(x + b * image_size + c, mask=real, other=0.0).to(tl.float32)
    for kind in tl.static_range(KINDS):
        at = sums + (b * runs * KINDS + kind) * 2 * C + c
        offset = _mean_of_runs(at, runs, pixels, real, 2 * KINDS * C, RUNS)
        square = _mean_of_runs(at + C, runs, pixels, real, 2 * KINDS * C, RUNS)
        scale = 1.0 / tl.sqrt(tl.maximum(square - offset * offset, 0.0) + eps)
        to = norms + (kind * tl.num_programs(1) + b) * 2 * C + c
        tl.store(to, scale, mask=real)
        tl.store(to + C, -(pivot + offset) * scale, mask=real)


@triton.jit
@no_type_check
def activate(value, norm, slope, c, C: tl.constexpr):
    """Normalise value (n, channels c) by an image's norm (2, C), then PReLU."""
    real = c < C
    scale, shift = tl.load(norm + c, mask=real, other=0.0), tl.load(norm + C + c, mask=real, other=0.0)
    value = value * scale[None, :] + shift[None, :]
    return tl.where(value > 0, value, value * tl.load(slope + c, mask=real, other=0.0)[None, :])


@triton.jit
@no_type_check
def normalise_kernel(x, norm, slope, pixels, C: tl.constexpr, CP: tl.constexpr, BLOCK: tl.constexpr):
    """Normalise x (B, pixels, C) in place, then PReLU."""
    b = tl.program_id(1).to(tl.int64)
    pixel, c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, CP)
    ok = (pixel < pixels)[:, None] & (c < C)[None, :]
    at = x + (b * pixels + pixel)[:, None] * C + c[None, :]
    value = activate(tl.load(at, mask=ok, other=0.0).to(tl.float32), norm + b * 2 * C, slope, c, C)
    tl.store(at, value, mask=ok)


@triton.jit
@no_type_check
def upsample(x, y, column, height, width, ok, c, C: tl.constexpr):
    """Bilinear x2 upsampling of an image x (height, width, C) at fine rows y and columns (n,), for the channels c."""
    fine_y, fine_x = tl.maximum(y * 0.5 - 0.25, 0.0), tl.maximum(column * 0.5 - 0.25, 0.0)
    y0, x0 = fine_y.to(tl.int32), fine_x.to(tl.int32)
    y1, x1 = tl.minimum(y0 + 1, height - 1), tl.minimum(x0 + 1, width - 1)
    part_y, part_x = (fine_y - y0)[:, None], (fine_x - x0)[:, None]
    at = x + c[None, :]
    v00 = tl.load(at + (y0 * width + x0).to(tl.int64)[:, None] * C, mask=ok, other=0.0).to(tl.float32)
    v01 = tl.load(at + (y0 * width + x1).to(tl.int64)[:, None] * C, mask=ok, other=0.0).to(tl.float32)
    v10 = tl.load(at + (y1 * width + x0).to(tl.int64)[:, None] * C, mask=ok, other=0.0).to(tl.float32)
    v11 = tl.load(at + (y1 * width + x1).to(tl.int64)[:, None] * C, mask=ok, other=0.0).to(tl.float32)
    top, bottom = v00 + (v01 - v00) * part_x, v10 + (v11 - v10) * part_x
    return top + (bottom - top) * part_y


@triton.jit
@no_type_check
def activation_kernel(
    half, skip, half_norm, skip_norm, slope, out, taps, height, width,
    C1: tl.constexpr, C2: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr, TAPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The activation of half (B, height / 2, width / 2, C1), upsampled, and skip (B, height, width, C2).

    Without TAPS, writes it to out (B, height, width, C1 + C2). With TAPS it never leaves the registers: writes its
    products with taps (TAPS, C1 + C2) to out (B, TAPS, height, width) in single precision.
    """
    b = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    C: tl.constexpr = C1 + C2
    dtype = half.dtype.element_ty
    real = pixel < height * width
    c1, c2 = tl.arange(0, P1), tl.arange(0, P2)
    ok1, ok2 = real[:, None] & (c1 < C1)[None, :], real[:, None] & (c2 < C2)[None, :]
    half += b * (height // 2) * (width // 2) * C1
    up = upsample(half, pixel // width, pixel % width, height // 2, width // 2, ok1, c1, C1)
    up = activate(up, half_norm + b * 2 * C1, slope, c1, C1).to(dtype)
    at = b * height * width + pixel
    beside = tl.load(skip + at[:, None] * C2 + c2[None, :], mask=ok2, other=0.0).to(tl.float32)
    beside = activate(beside, skip_norm + b * 2 * C2, slope + C1, c2, C2).to(dtype)
    if TAPS == 0:
        tl.store(out + at[:, None] * C + c1[None, :], up, mask=ok1)
        tl.store(out + at[:, None] * C + C1 + c2[None, :], beside, mask=ok2)
    else:
        t = tl.arange(0, 32)
        rows = taps + t[None, :] * C
        taps1 = tl.load(rows + c1[:, None], mask=(c1 < C1)[:, None] & (t < TAPS)[None, :], other=0.0)
        taps2 = tl.load(rows + C1 + c2[:, None], mask=(c2 < C2)[:, None] & (t < TAPS)[None, :], other=0.0)
        products = tl.dot(up, taps1, input_precision="ieee") + tl.dot(beside, taps2, input_precision="ieee")
        to = out + (b * TAPS + t[None, :]) * height * width + pixel[:, None]
        tl.store(to, products, mask=real[:, None] & (t < TAPS)[None, :])


@triton.jit
@no_type_check
def fold_kernel(products, bias, out, height, width, SIDE: tl.constexpr, BLOCK: tl.constexpr):
    """out (B, height, width): bias plus the sum over taps (dy, dx) of products (B, SIDE^2, height, width) there."""
    b = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y, x = pixel // width, pixel % width
    real = pixel < height * width
    total = tl.zeros((BLOCK,), tl.float32) + tl.load(bias)
    for tap in tl.static_range(SIDE * SIDE):
        row, column = y + tap // SIDE - SIDE // 2, x + tap % SIDE - SIDE // 2
        inside = real & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        at = products + (b * SIDE * SIDE + tap) * height * width + row * width + column
        total += tl.load(at, mask=inside, other=0.0)
    tl.store(out + b * height * width + pixel, total, mask=real)
