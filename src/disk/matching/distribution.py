"""The match distribution of training: the probability of each match between two sets of features.

DISK (Tyszkiewicz et al. 2020), section 3.2: feature i chooses a j with the softmax of -theta * distance over its row,
and feature j chooses an i with the softmax over its column. They match if both agree, so P(i <-> j) is the product.
"""

from __future__ import annotations

import torch

from disk.blocks import blocks, rows_at_once
from disk.shapes import Float, Int, Tensor

# numbers in a block of rows: on a CPU it stays in the cache
_BLOCK = {"cpu": 1 << 20, "other": 1 << 26}


def distance_floor(dtype: torch.dtype) -> float:
    """The distance below which rounding dominates; the gradient, infinite at distance 0, is set to 0 there."""
    return (8 * torch.finfo(dtype).eps) ** 0.5


class MatchDistribution:
    """P(i <-> j) for the unit descriptors of p pairs of images, in blocks of rows; never keeps an n x m matrix.

    Without gradients: `disk.training.loss` has them in closed form.
    d0, d1: unit descriptors (p, n, d) and (p, m, d)
    theta: inverse temperature
    counts0, counts1: number of features of each pair; further rows are padding, whose matches have probability 0;
    default: all rows are features
    """

    @torch.no_grad()
    def __init__(
        self,
        d0: Float[Tensor, "p n d"],
        d1: Float[Tensor, "p m d"],
        theta: float,
        counts0: Int[Tensor, " p"] | None = None,
        counts1: Int[Tensor, " p"] | None = None,
    ) -> None:
        self.d0, self.d1, self.theta = d0, d1, theta
        self.floor = distance_floor(d0.dtype)
        self._off0, self._off1 = _off(d0, counts0), _off(d1, counts1)
        pairs, m = d1.shape[:2]
        rows = []
        # accumulate the columns' log-sum-exp block by block, relative to the largest value so far
        largest = d0.new_full((pairs, m), torch.finfo(d0.dtype).min)
        total = d0.new_zeros(pairs, m)
        for block in self.blocks():
            affinity = self._affinity(self.distance(block), block)
            rows.append(torch.logsumexp(affinity, 2))
            now = torch.maximum(largest, affinity.amax(1))
            total = total * (largest - now).exp() + (affinity - now[:, None]).exp_().sum(1)
            largest = now
        self._rows = torch.cat(rows, 1) if rows else d0.new_zeros(pairs, 0)
        self._columns = largest + total.log()
        # a feature with nothing to choose from gets probability 0: exp(-inf - inf) = 0
        for sums in (self._rows, self._columns):
            sums.masked_fill_(sums == -torch.inf, torch.inf)

    def blocks(self) -> list[slice]:
        """Slices that together cover all rows; none if either side is empty."""
        pairs, m = self.d1.shape[:2]
        if pairs * m == 0:
            return []
        return blocks(self.d0.shape[1], rows_at_once(pairs * m, self.d0.device, _BLOCK))

    def distance(self, block: slice) -> Float[Tensor, "p b m"]:
        """Euclidean distances, clamped to at least `self.floor`: smaller ones are rounding error."""
        squared = torch.baddbmm(self.d0.new_full((), 2), self.d0[:, block], self.d1.mT, alpha=-2)
        return squared.clamp_(min=self.floor**2).sqrt_()

    def choices(
        self, distance: Float[Tensor, "p b m"], block: slice
    ) -> tuple[Float[Tensor, "p b m"], Float[Tensor, "p b m"]]:
        """The softmax over the rows and the softmax over the columns; their product is P."""
        affinity = self._affinity(distance, block)
        forward = (affinity - self._rows[:, block, None]).exp_()
        return forward, affinity.sub_(self._columns[:, None]).exp_()

    def _affinity(self, distance: Tensor, block: slice) -> Tensor:
        """-theta * distance; -inf where either side is padding."""
        affinity = distance * -self.theta
        if self._off0 is not None:
            affinity.masked_fill_(self._off0[:, block, None], -torch.inf)
        if self._off1 is not None:
            affinity.masked_fill_(self._off1[:, None], -torch.inf)
        return affinity


def _off(d: Float[Tensor, "p n d"], counts: Int[Tensor, " p"] | None) -> Tensor | None:
    """(P, N): which rows are padding."""
    return None if counts is None else torch.arange(d.shape[1], device=d.device) >= counts[:, None]
