"""Triton's kernels on points, called by `fused`: candidates of a heatmap, their positions, their descriptors."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from disk.model.kernels.triton_maps import upsample


@triton.jit
@no_type_check
def candidates_kernel(
    heatmap, sizes, allowed, keys, height, width, REACH: tl.constexpr, MASKED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """keys (B, cells) of heatmap (B, height, width), of which only the part within sizes (B, 2) counts."""
    b = tl.program_id(1).to(tl.int64)
    cell = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.cdiv(width, REACH + 1)
    cells = columns * tl.cdiv(height, REACH + 1)
    valid_height, valid_width = tl.load(sizes + 2 * b), tl.load(sizes + 2 * b + 1)
    heatmap += b * height * width

    # only the first arg-max of a cell can be the arg-max of its window, because the window contains the cell
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    first_y, first_x = cell // columns * (REACH + 1), cell % columns * (REACH + 1)
    y, x = first_y, first_x
    for dy in range(REACH + 1):
        for dx in tl.static_range(REACH + 1):
            at_y, at_x = first_y + dy, first_x + dx
            inside = (at_y < valid_height) & (at_x < valid_width)
            value = tl.load(heatmap + at_y * width + at_x, mask=inside, other=float("-inf"))
            better = value > best
            best, y, x = tl.where(better, value, best), tl.where(better, at_y, y), tl.where(better, at_x, x)

    kept = best > 0
    for dy in range(-REACH, REACH + 1):
        for k in tl.static_range(2 * REACH + 1):
            at_y, at_x = y + dy, x + k - REACH
            inside = (at_y >= 0) & (at_y < valid_height) & (at_x >= 0) & (at_x < valid_width)
            value = tl.load(heatmap + at_y * width + at_x, mask=inside, other=float("-inf"))
            before = (dy < 0) | ((dy == 0) & (k < REACH))
            kept &= (best > value) | ((best == value) & (before == 0))
    kept = kept != 0  # a mask must be boolean, but the interpreter makes it a number
    if MASKED:
        kept &= tl.load(allowed + b * height * width + y * width + x, mask=kept, other=0) != 0

    key = (best.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (0xFFFFFFFF - (y.to(tl.int64) * width + x))
    tl.store(keys + b * cells + cell, tl.where(kept, key, 0), mask=cell < cells)


@triton.jit
@no_type_check
def _vertex(at, middle, position, size, stride, found):
    inner = found & (position > 0) & (position < size - 1)
    before = tl.load(at - stride, mask=inner, other=0.0)
    after = tl.load(at + stride, mask=inner, other=0.0)
    curvature = 2 * middle - before - after
    is_peak = inner & (middle >= before) & (middle >= after) & (curvature > 0)
    return tl.where(is_peak, (after - before) / (2 * tl.where(is_peak, curvature, 1.0)), 0.0)


@triton.jit
@no_type_check
def place_kernel(
    keys, heatmap, sizes, keypoints, scores, pixels, counts, height, width, points,
    SUBPIXEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Keypoints, scores, indices into the batch and counts of keys (B, points), best first."""
    b = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = i < points
    key = tl.load(keys + b * points + i, mask=real, other=0)
    found = key > 0
    pixel = tl.where(found, 0xFFFFFFFF - (key & 0xFFFFFFFF), 0)
    y, x = (pixel // width).to(tl.int32), (pixel % width).to(tl.int32)
    score = (key >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    place_x, place_y = x.to(tl.float32), y.to(tl.float32)
    if SUBPIXEL:
        at = heatmap + b * height * width + pixel
        place_x += _vertex(at, score, x, tl.load(sizes + 2 * b + 1), 1, found)
        place_y += _vertex(at, score, y, tl.load(sizes + 2 * b), width, found)
    to = b * points + i
    tl.store(keypoints + 2 * to, tl.where(found, place_x, 0.0), mask=real)
    tl.store(keypoints + 2 * to + 1, tl.where(found, place_y, 0.0), mask=real)
    tl.store(scores + to, tl.where(found, score, 0.0), mask=real)
    tl.store(pixels + to, tl.where(found, b * height * width + pixel, -1), mask=real)
    # the last key found writes the count, or the first key if none is found
    following = tl.load(keys + b * points + i + 1, mask=i + 1 < points, other=0)
    tl.store(counts + b + 0 * i, i + 1, mask=found & (following <= 0))
    tl.store(counts + b + 0 * i, i, mask=(i == 0) & (found == 0))


@triton.jit
@no_type_check
def _norms_of(norm, image, found, c, C: tl.constexpr):
    ok = found[:, None] & (c < C)[None, :]
    at = norm + image[:, None] * 2 * C + c[None, :]
    return tl.load(at, mask=ok, other=0.0), tl.load(at + C, mask=ok, other=0.0)


@triton.jit
@no_type_check
def describe_kernel(
    half, skip, half_norm, skip_norm, slope, matrix, bias, pixels, out, height, width, points,
    C1: tl.constexpr, C2: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr, D: tl.constexpr, PD: tl.constexpr,
    SIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out (points, D): each pixel's window of the activation times matrix (SIDE^2 C, D), as unit vectors.

    Rebuilds the windows tap by tap from half (B, height / 2, width / 2, C1) and skip (B, height, width, C2).
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    pixel = tl.load(pixels + i, mask=i < points, other=-1)
    found = pixel >= 0
    pixel = tl.where(found, pixel, 0)
    image = pixel // (height * width)
    y = ((pixel // width) % height).to(tl.int32)
    x = (pixel % width).to(tl.int32)
    c1, c2, d = tl.arange(0, P1), tl.arange(0, P2), tl.arange(0, PD)
    real1, real2, real_d = c1 < C1, c2 < C2, d < D
    scale1, shift1 = _norms_of(half_norm, image, found, c1, C1)
    scale2, shift2 = _norms_of(skip_norm, image, found, c2, C2)
    slope1 = tl.load(slope + c1, mask=real1, other=0.0)[None, :]
    slope2 = tl.load(slope + C1 + c2, mask=real2, other=0.0)[None, :]
    half_at = half + (image * (height // 2) * (width // 2) * C1)[:, None]
    skip_at = skip + (image * height * width * C2)[:, None] + c2[None, :]

    total = tl.zeros((BLOCK, PD), tl.float32)
    for tap in range(SIDE * SIDE):
        at_y, at_x = y + tap // SIDE - SIDE // 2, x + tap % SIDE - SIDE // 2
        inside = found & (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
        ok1, ok2 = inside[:, None] & real1[None, :], inside[:, None] & real2[None, :]
        up = upsample(half_at, at_y, at_x, height // 2, width // 2, ok1, c1, C1) * scale1 + shift1
        up = tl.where(ok1, tl.where(up > 0, up, up * slope1), 0.0).to(half.dtype.element_ty)
        beside = tl.load(skip_at + (at_y * width + at_x).to(tl.int64)[:, None] * C2, mask=ok2, other=0.0)
        beside = beside.to(tl.float32) * scale2 + shift2
        beside = tl.where(ok2, tl.where(beside > 0, beside, beside * slope2), 0.0).to(half.dtype.element_ty)
        rows = matrix + tap * (C1 + C2) * D + d[None, :]
        matrix1 = tl.load(rows + c1[:, None] * D, mask=real1[:, None] & real_d[None, :], other=0.0)
        matrix2 = tl.load(rows + (C1 + c2)[:, None] * D, mask=real2[:, None] & real_d[None, :], other=0.0)
        total = tl.dot(up, matrix1, total, input_precision="ieee")
        total = tl.dot(beside, matrix2, total, input_precision="ieee")
    total += tl.load(bias + d, mask=real_d, other=0.0)[None, :]
    length = tl.maximum(tl.sqrt(tl.sum(total * total, 1)), 1e-12)[:, None]
    to = out + i.to(tl.int64)[:, None] * D + d[None, :]
    tl.store(to, tl.where(found[:, None], total / length, 0.0), mask=(i < points)[:, None] & real_d[None, :])
