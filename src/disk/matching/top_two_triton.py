"""`top_two_of_matrix` as a kernel that never writes the matrix, like flash attention.

Each program keeps some descriptors and loops over all those of the other image, tile by tile, with the two largest
similarities so far in registers. One launch covers both directions. Descriptors are float32 or float16; a float32 is
split into the sum of two halves, whose three largest products leave an error below 2^-20 of the lengths (`ROUNDING`).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from disk.matching.top_two import TopTwo
from disk.shapes import Float, Int, Tensor

ROUNDING = 2.0**-20
_ROWS, _COLUMNS = 64, 64


@triton.jit
def _top_two_kernel(  # type: ignore[no-untyped-def]
    d0, d1, counts0, counts1, top, second, index, stride0, stride1, N, M, D,
    SPLIT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    block, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
    blocks0 = tl.cdiv(N, ROWS)
    out = pair * (N + M)
    if block < blocks0:
        mine, others = d0 + pair * stride0, d1 + pair * stride1
        size, shift = N, N
        count, other_count = tl.load(counts0 + pair), tl.load(counts1 + pair)
    else:
        mine, others = d1 + pair * stride1, d0 + pair * stride0
        size, shift = M, 0
        count, other_count = tl.load(counts1 + pair), tl.load(counts0 + pair)
        block -= blocks0
        out += N
    rows, depth = block * ROWS + tl.arange(0, ROWS), tl.arange(0, DEPTH)
    there = (rows[:, None] < count) & (depth[None, :] < D)
    a = tl.load(mine + rows[:, None] * D + depth[None, :], there, 0.0)
    a_high = a.to(tl.float16)
    if SPLIT:
        a_low = (a - a_high.to(tl.float32)).to(tl.float16)
    best = tl.full((ROWS,), float("-inf"), tl.float32)
    runner_up = tl.full((ROWS,), float("-inf"), tl.float32)
    where = tl.zeros((ROWS,), tl.int32)
    start = 0
    while start < other_count:  # not a `range`: Triton's interpreter, used in tests, takes no loaded bound
        columns = start + tl.arange(0, COLUMNS)
        inside = (columns[None, :] < other_count) & (depth[:, None] < D)
        b = tl.load(others + columns[None, :] * D + depth[:, None], inside, 0.0)
        b_high = b.to(tl.float16)
        tile = tl.dot(a_high, b_high)
        if SPLIT:
            b_low = (b - b_high.to(tl.float32)).to(tl.float16)
            tile = tl.dot(a_high, b_low, tile)
            tile = tl.dot(a_low, b_high, tile)
        tile = tl.where(columns[None, :] < other_count, tile, float("-inf"))
        largest, place = tl.max(tile, 1, return_indices=True)
        rest = tl.max(tl.where(tl.arange(0, COLUMNS)[None, :] == place[:, None], float("-inf"), tile), 1)
        runner_up = tl.maximum(tl.minimum(best, largest), tl.maximum(runner_up, rest))
        where = tl.where(largest > best, start + place, where)
        best = tl.maximum(best, largest)
        start += COLUMNS
    best = tl.where(rows < count, best, float("-inf"))
    runner_up = tl.where(rows < count, runner_up, float("-inf"))
    tl.store(top + out + rows, best, rows < size)
    tl.store(second + out + rows, runner_up, rows < size)
    tl.store(index + out + rows, where.to(tl.int64) + shift, rows < size)


def top_two_by_kernel(
    d0: Float[Tensor, "b n d"],
    d1: Float[Tensor, "b m d"],
    counts0: Int[Tensor, " b"] | None,
    counts1: Int[Tensor, " b"] | None,
) -> TopTwo:
    """The result for both images of each pair; arguments as in `top_two_of_matrix`."""
    (pairs, n, depth), m = d0.shape, d1.shape[1]
    # each pair's descriptors must be contiguous, but all pairs may share them
    d0, d1 = (d if d.stride()[1:] == (depth, 1) else d.contiguous() for d in (d0, d1))
    counts0 = torch.full((pairs,), n, device=d0.device) if counts0 is None else counts0
    counts1 = torch.full((pairs,), m, device=d0.device) if counts1 is None else counts1
    top, second = torch.empty((2, pairs, n + m), dtype=torch.float32, device=d0.device)
    index = torch.empty((pairs, n + m), dtype=torch.int64, device=d0.device)
    grid = (triton.cdiv(n, _ROWS) + triton.cdiv(m, _ROWS), pairs)
    # Triton launches on the current device, not on that of the tensors
    with torch.cuda.device_of(d0):
        _top_two_kernel[grid](
            d0, d1, counts0, counts1, top, second, index, d0.stride(0), d1.stride(0), n, m, depth,
            SPLIT=d0.dtype != torch.float16 or d1.dtype != torch.float16, ROWS=_ROWS, COLUMNS=_COLUMNS,
            DEPTH=max(16, triton.next_power_of_2(depth)),
        )  # fmt: skip
    return TopTwo(top, second, index)
