"""Random numbers for many scenes at once, in float64 on the CPU, with a seed for each scene."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from disk.shapes import Tensor


class Dice:
    """Random draws with the scene as first axis; a scene's draws do not depend on the others in the batch."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __len__(self) -> int:
        return len(self.generators)

    def uniform(self, low: float | int, high: float | int, *shape: int) -> Tensor:
        """Uniform in [low, high). Like all draws, of shape (scenes, *shape)."""
        return low + (high - low) * self._draw(torch.rand, shape)

    def log_uniform(self, low: float | int, high: float | int, *shape: int) -> Tensor:
        """Uniform on a logarithmic scale."""
        return self.uniform(math.log(low), math.log(high), *shape).exp()

    def normal(self, *shape: int) -> Tensor:
        """Standard normal."""
        return self._draw(torch.randn, shape)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """True with the given probability."""
        return self.uniform(0, 1, *shape) < probability

    def integers(self, count: int, *shape: int) -> Tensor:
        """Integers from 0 to count - 1."""
        return self.uniform(0, count, *shape).long().clamp(max=count - 1)

    def _draw(self, function: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        return torch.stack([function(shape, generator=g, dtype=torch.float64) for g in self.generators])
