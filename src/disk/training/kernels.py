"""Triton kernels for the expectation over matches; `disk.training.fused` runs them.

Each program takes a block of rows of a pair (features of one image) and loops over the columns (features of the other)
tile by tile, so the full match matrix is never written. It sums in a fixed order and uses no atomics: the same input
gives the same bits. Terms are arrays (P, 13, N) in the order of `disk.rewards.terms.Terms`.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from disk.rewards.matches import SAME_DEPTH

# full fp32 products: tensor cores with "tf32" would lose half of the digits
_PRECISION = tl.constexpr("ieee")
_SAME_DEPTH = tl.constexpr(SAME_DEPTH)


@triton.jit
@no_type_check
def _squared(d1, d2, i, j, n, m, floor2, D: tl.constexpr, PART: tl.constexpr):
    """Squared distances between unit vectors i (N, 1) of d1 and j (1, M) of d2, as in `MatchDistribution.distance`."""
    k = tl.arange(0, PART)
    product = tl.zeros((i.shape[0], j.shape[1]), tl.float32)
    # a few channels at a time, or the compiler would need a register for each
    for part in range(0, D, PART):
        some = part + k
        a = tl.load(d1 + i * D + some[None, :], mask=(i < n) & (some < D)[None, :], other=0.0)
        b = tl.load(d2 + j * D + some[:, None], mask=(j < m) & (some < D)[:, None], other=0.0)
        product = tl.dot(a, b, product, input_precision=_PRECISION)
    return tl.maximum(2.0 - 2.0 * product, floor2)


@triton.jit
@no_type_check
def _terms(terms, i, size, count):
    """Load the terms of keypoints i from an array (13, size), in the order of `Terms`."""
    inside = i < count
    x, y = tl.load(terms + i, mask=inside), tl.load(terms + size + i, mask=inside)
    a, b = tl.load(terms + 2 * size + i, mask=inside), tl.load(terms + 3 * size + i, mask=inside)
    c = tl.load(terms + 4 * size + i, mask=inside)
    ray_x, ray_y = tl.load(terms + 5 * size + i, mask=inside), tl.load(terms + 6 * size + i, mask=inside)
    ray_z, along = tl.load(terms + 7 * size + i, mask=inside), tl.load(terms + 8 * size + i, mask=inside)
    seen_x, seen_y = tl.load(terms + 9 * size + i, mask=inside), tl.load(terms + 10 * size + i, mask=inside)
    seen_z, own_z = tl.load(terms + 11 * size + i, mask=inside), tl.load(terms + 12 * size + i, mask=inside)
    return x, y, a, b, c, ray_x, ray_y, ray_z, along, seen_x, seen_y, seen_z, own_z


@triton.jit
@no_type_check
def _reward(
    one, two, i, j, size1, size2, n, m, slack, on_line, positive, negative, threshold, squared, VISIBILITY: tl.constexpr
):
    """`disk.rewards.matches.reward` for keypoints i (N, 1) and j (1, M), computed in the same order."""
    x1, y1, a1, b1, c1, rx1, ry1, rz1, along1, sx1, sy1, sz1, z1 = _terms(one, i, size1, n)
    x2, y2, a2, b2, c2, rx2, ry2, rz2, along2, sx2, sy2, sz2, z2 = _terms(two, j, size2, m)
    near = (tl.abs(a1 * x2 + b1 * y2 + c1) < threshold) & (tl.abs(a2 * x1 + b2 * y1 + c2) < threshold)
    same = (sx1 - x2) * (sx1 - x2) + (sy1 - y2) * (sy1 - y2) < squared
    same = same & ((sx2 - x1) * (sx2 - x1) + (sy2 - y1) * (sy2 - y1) < squared)
    earned = on_line
    if VISIBILITY:
        same = same & (sz1 < z2 * _SAME_DEPTH) & (z2 < sz1 * _SAME_DEPTH)
        same = same & (sz2 < z1 * _SAME_DEPTH) & (z1 < sz2 * _SAME_DEPTH)
        cosine = rx1 * rx2 + ry1 * ry2 + rz1 * rz2
        behind = (along1 + cosine * along2 < slack) | (along2 + cosine * along1 < slack)
        earned = tl.where(behind, negative, on_line)
    return tl.where(near, tl.where(same, positive, earned), negative)


@triton.jit
@no_type_check
def log_sums_kernel(
    d1, d2, counts1, counts2, out, theta, floor2, N, M,
    D: tl.constexpr, PART: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sweep 1: log-sum-exp of -theta * distance over each row of each pair; out (P, N)."""
    p, row = tl.program_id(1).to(tl.int64), tl.program_id(0) * ROWS
    n, m = tl.load(counts1 + p), tl.load(counts2 + p)
    if (row >= n) | (m == 0):
        return
    d1 += p * N * D
    d2 += p * M * D
    i = row + tl.arange(0, ROWS)
    largest, total = tl.full((ROWS,), float("-inf"), tl.float32), tl.zeros((ROWS,), tl.float32)
    column = 0
    while column < m:
        j = column + tl.arange(0, COLUMNS)
        affinity = tl.sqrt(_squared(d1, d2, i[:, None], j[None, :], n, m, floor2, D, PART)) * -theta
        affinity = tl.where((j < m)[None, :], affinity, float("-inf"))
        now = tl.maximum(largest, tl.max(affinity, 1))
        total = total * tl.exp(largest - now) + tl.sum(tl.exp(affinity - now[:, None]), 1)
        largest = now
        column += COLUMNS
    tl.store(out + p * N + i, largest + tl.log(total), mask=i < n)


@triton.jit
@no_type_check
def expectations_kernel(
    d1, d2, counts1, counts2, sums1, sums2, terms1, terms2, slack, on_line, out, positive, negative, threshold, squared,
    theta, floor2, N, M, TERMS: tl.constexpr, VISIBILITY: tl.constexpr,
    D: tl.constexpr, PART: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sweep 2: for each row of each pair, the sums of P R, of P, and of P where R > 0; out (P, 3, N)."""
    p, row = tl.program_id(1).to(tl.int64), tl.program_id(0) * ROWS
    n, m = tl.load(counts1 + p), tl.load(counts2 + p)
    if (row >= n) | (m == 0):
        return
    d1 += p * N * D
    d2 += p * M * D
    i = row + tl.arange(0, ROWS)
    # exp(x - inf) = 0: nothing matches past the last keypoint
    rows = tl.load(sums1 + p * N + i, mask=i < n, other=float("inf"))
    slack_p, on_line_p = tl.load(slack + p), tl.load(on_line + p)
    reward, matches = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    right = tl.zeros((ROWS,), tl.float32)
    column = 0
    while column < m:
        j = column + tl.arange(0, COLUMNS)
        columns = tl.load(sums2 + p * M + j, mask=j < m, other=float("inf"))
        affinity = tl.sqrt(_squared(d1, d2, i[:, None], j[None, :], n, m, floor2, D, PART)) * -theta
        P = tl.exp(affinity - rows[:, None]) * tl.exp(affinity - columns[None, :])
        R = _reward(
            terms1 + p * TERMS * N, terms2 + p * TERMS * M, i[:, None], j[None, :], N, M, n, m, slack_p, on_line_p,
            positive, negative, threshold, squared, VISIBILITY,
        )  # fmt: skip
        reward += tl.sum(P * R, 1)
        matches += tl.sum(P, 1)
        right += tl.sum(tl.where(R > 0, P, 0.0), 1)
        column += COLUMNS
    out += p * 3 * N + i
    tl.store(out, reward, mask=i < n)
    tl.store(out + N, matches, mask=i < n)
    tl.store(out + 2 * N, right, mask=i < n)


@triton.jit
@no_type_check
def gradients_kernel(
    d1, d2, counts1, counts2, sums1, sums2, terms1, terms2, rewards1, rewards2, slack, on_line, out, positive, negative,
    threshold, squared, theta, floor2, N, M, TERMS: tl.constexpr, VISIBILITY: tl.constexpr, ALL: tl.constexpr,
    D: tl.constexpr, PART: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sweep 3: gradient of each row's descriptor; rewards (P, 3, N) come from sweep 2, out (P, N, D)."""
    p, row = tl.program_id(1).to(tl.int64), tl.program_id(0) * ROWS
    n, m = tl.load(counts1 + p), tl.load(counts2 + p)
    if (row >= n) | (m == 0):
        return
    d1 += p * N * D
    d2 += p * M * D
    i, k = row + tl.arange(0, ROWS), tl.arange(0, ALL)
    rows = tl.load(sums1 + p * N + i, mask=i < n, other=float("inf"))
    of_row = tl.load(rewards1 + p * 3 * N + i, mask=i < n, other=0.0)
    slack_p, on_line_p = tl.load(slack + p), tl.load(on_line + p)
    gradient = tl.zeros((ROWS, ALL), tl.float32)
    column = 0
    while column < m:
        j = column + tl.arange(0, COLUMNS)
        columns = tl.load(sums2 + p * M + j, mask=j < m, other=float("inf"))
        of_column = tl.load(rewards2 + p * 3 * M + j, mask=j < m, other=0.0)
        distance2 = _squared(d1, d2, i[:, None], j[None, :], n, m, floor2, D, PART)
        distance = tl.sqrt(distance2)
        forward = tl.exp(distance * -theta - rows[:, None])
        backward = tl.exp(distance * -theta - columns[None, :])
        R = _reward(
            terms1 + p * TERMS * N, terms2 + p * TERMS * M, i[:, None], j[None, :], N, M, n, m, slack_p, on_line_p,
            positive, negative, threshold, squared, VISIBILITY,
        )  # fmt: skip
        slope = forward * backward * R * -2.0 + forward * of_row[:, None] + backward * of_column[None, :]
        slope = tl.where((distance2 > floor2) & (j < m)[None, :], slope * theta / distance, 0.0)
        b = tl.load(d2 + j[:, None] * D + k[None, :], mask=(j < m)[:, None] & (k < D)[None, :], other=0.0)
        gradient = tl.dot(slope, b.to(tl.float32), gradient, input_precision=_PRECISION)
        column += COLUMNS
    inside = (i < n)[:, None] & (k < D)[None, :]
    tl.store(out + p * N * D + i[:, None] * D + k[None, :], gradient, mask=inside)
