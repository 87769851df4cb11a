"""Random numbers of one seed, in float64 on the CPU."""

from __future__ import annotations

import math

import torch

from disk.shapes import Tensor


class Dice:
    """Draws from one generator."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in [low, high)."""
        return low + (high - low) * torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform on a logarithmic scale."""
        return self.uniform(math.log(low), math.log(high), *shape).exp()

    def normal(self, *shape: int) -> Tensor:
        """Standard normal."""
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """True with a probability."""
        return self.uniform(0, 1, *shape) < probability

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Whole numbers from low to high, both included."""
        return torch.randint(low, high + 1, shape, generator=self.generator)
