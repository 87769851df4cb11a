"""The match distribution of training: how probable each match of two sets of features is.

DISK (Tyszkiewicz et al. 2020), section 3.2: feature i chooses a j with the softmax of -theta * distance over
the row, feature j an i with that over the column; they match when the two agree, so P(i <-> j) is the product.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from disk.shapes import Float, Tensor

# elements of a block of rows: on a processor it stays in the cache
_BLOCK = {"cpu": 1 << 20, "other": 1 << 26}


class MatchDistribution:
    """P(i <-> j) for unit descriptors d0 (n, d) and d1 (m, d), in blocks of rows: no n x m matrix is kept.

    theta: inverse temperature. Without gradient: `disk.training.loss` has it in closed form.
    """

    @torch.no_grad()
    def __init__(self, d0: Float[Tensor, "n d"], d1: Float[Tensor, "m d"], theta: float) -> None:
        self.d0, self.d1, self.theta = d0, d1, theta
        rows = []
        # the columns' log-sum-exp is gathered block by block, relative to the largest value so far
        largest = d0.new_full((len(d1),), -torch.inf)
        total = d0.new_zeros(len(d1))
        for block in self.blocks():
            affinity = self.distance(block) * -theta
            rows.append(torch.logsumexp(affinity, 1))
            now = torch.maximum(largest, affinity.amax(0))
            total = total * (largest - now).exp() + (affinity - now).exp_().sum(0)
            largest = now
        self._rows = torch.cat(rows) if rows else d0.new_zeros(0)
        self._columns = largest + total.log()

    def blocks(self) -> Iterator[slice]:
        """Slices of rows that together are all of them; none if either side is empty."""
        if len(self.d1) == 0:
            return
        step = max(_BLOCK["cpu" if self.d0.device.type == "cpu" else "other"] // len(self.d1), 1)
        for first in range(0, len(self.d0), step):
            yield slice(first, first + step)

    def distance(self, block: slice) -> Float[Tensor, "b m"]:
        """Euclidean distances, at least `self.floor`: nearer than that they are rounding."""
        squared = torch.addmm(self.d0.new_full((), 2), self.d0[block], self.d1.T, alpha=-2)
        return squared.clamp_(min=self.floor**2).sqrt_()

    def choices(
        self, distance: Float[Tensor, "b m"], block: slice
    ) -> tuple[Float[Tensor, "b m"], Float[Tensor, "b m"]]:
        """The softmax over the rows and that over the columns; their product is P."""
        affinity = distance * -self.theta
        forward = (affinity - self._rows[block, None]).exp_()
        return forward, affinity.sub_(self._columns).exp_()

    @property
    def floor(self) -> float:
        """Where the distance ends to depend on the descriptors, and its gradient, infinite at 0, is taken as 0."""
        return (8 * torch.finfo(self.d0.dtype).eps) ** 0.5
