"""The norm of a map over the whole image, from its tiles; exact."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from disk.model.statistics import EPS, gram
from disk.model.tiles import Tile
from disk.shapes import Float, Tensor


@dataclass(frozen=True)
class Norm:
    """The normalisation of a map's channels.

    mean: mean of each channel
    scale: inverse standard deviation of each channel
    """

    mean: Float[Tensor, "b c 1 1"]
    scale: Float[Tensor, "b c"]


class Moments:
    """Accumulates the moments of a map, or of the map upsampled, over the tiles of an image."""

    def __init__(self, upsampled: bool = False) -> None:
        self._upsampled = upsampled
        self._shift: Tensor | None = None
        self._count = 0
        self._sum = self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, tile: Tile, seen: Float[Tensor, "b c h w"]) -> None:
        """Add a tile's own pixels; upsampling also reads the pixels around them."""
        if self._shift is None:
            # any value works; near the mean, the squares lose no digits
            self._shift = tile.trim(seen).mean((2, 3), keepdim=True)
        centred = seen - self._shift
        own = tile.trim(centred)
        # as in `disk.model.statistics`; the filter is symmetric and keeps constants, so `norm` can undo the shift
        filtered = tile.trim(gram(gram(centred, 2), 3)) if self._upsampled else own
        self._count += own.shape[2] * own.shape[3]
        self._sum = self._sum + own.sum((2, 3)).to("cpu", torch.float64)
        self._squares = self._squares + (own * filtered).sum((2, 3)).to("cpu", torch.float64)

    def norm(self) -> Norm:
        """The norm over all tiles added, at least one."""
        assert self._shift is not None
        mean = self._sum / self._count
        variance = self._squares / self._count - mean.square()
        return Norm(self._shift + mean.to(self._shift)[:, :, None, None], torch.rsqrt(variance + EPS).to(self._shift))
