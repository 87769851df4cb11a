"""The expectation over matches and its gradient in Triton kernels, in the style of flash attention.

Computes the same as `disk.training.loss.expected_gradients` with the rewards of `disk.rewards.matches.reward`, for all
pairs at once. It makes three sweeps over the tiles of the match matrix. Each sweep runs for both sides: the columns of
a pair are the rows of the pair with its images swapped.

1. Log-sum-exp of each row, which normalises the match distribution of each keypoint.
2. Expected reward of each keypoint's matches, and the numbers of matches.
3. Gradient of each descriptor.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import triton

from disk.matching.distribution import distance_floor
from disk.rewards.terms import PairTerms, Terms
from disk.shapes import Float, Int, Tensor
from disk.training.kernels import expectations_kernel, gradients_kernel, log_sums_kernel

_ROWS, _COLUMNS = 64, 32  # tile size
_PART = 32  # descriptor channels multiplied at a time


@torch.no_grad()
def pair_gradients(
    d1: Float[Tensor, "p n d"],
    d2: Float[Tensor, "p m d"],
    counts1: Int[Tensor, " p"],
    counts2: Int[Tensor, " p"],
    terms: PairTerms,
    theta: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute the fields of `disk.training.loss.PairGradients` in single precision."""
    pairs, length = len(d1), d1.shape[2]
    d, counts = (d1.contiguous(), d2.contiguous()), (counts1, counts2)
    of_points = (terms.one.float().contiguous(), terms.two.float().contiguous())
    options, of_pairs = terms.options, (terms.slack.float(), terms.on_line.float())
    # without fused multiply-adds, rewards are bit-identical to torch's
    always: dict[str, Any] = {"theta": theta, "floor2": distance_floor(torch.float32) ** 2, "D": length, "PART": _PART}
    always |= {"ROWS": _ROWS, "COLUMNS": _COLUMNS, "enable_fp_fusion": False, "num_warps": 8}
    rewarding: dict[str, Any] = {
        "positive": options.positive,
        "negative": options.negative,
        "threshold": options.threshold,
    }
    rewarding |= {"squared": options.threshold**2, "TERMS": len(Terms._fields), "VISIBILITY": options.visibility}

    def sweep(
        kernel: Any, outs: list[Tensor], *sides: Sequence[Tensor], more: Any = (), **options: Any
    ) -> list[Tensor]:
        """Run a kernel for the rows of both sides; `sides` are the arguments that exist once per side."""
        for a, b in ((0, 1), (1, 0)):
            n, m = d[a].shape[1], d[b].shape[1]
            if pairs * n > 0:
                own = [side[k] for side in (d, counts, *sides) for k in (a, b)]
                # Triton launches on the current device, not on that of the tensors
                with torch.cuda.device_of(outs[a]):
                    kernel[triton.cdiv(n, _ROWS), pairs](*own, *more, outs[a], N=n, M=m, **always, **options)
        return outs

    zeros = partial(torch.zeros, dtype=torch.float32, device=d1.device)
    sums = sweep(log_sums_kernel, [zeros(x.shape[:2]) for x in d])
    expected = sweep(
        expectations_kernel, [zeros(pairs, 3, x.shape[1]) for x in d], sums, of_points, more=of_pairs, **rewarding
    )
    width = max(triton.next_power_of_2(length), 16)
    gradient1, gradient2 = sweep(
        gradients_kernel, [zeros(x.shape) for x in d], sums, of_points, expected, more=of_pairs, ALL=width, **rewarding
    )
    matches, right = expected[0][:, 1:].sum(2).unbind(1)
    return gradient1, gradient2, expected[0][:, 0], expected[1][:, 0], matches, right
