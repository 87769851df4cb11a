"""Processing large tables in blocks of rows, to bound the memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def rows_at_once(entries: int, device: torch.device, most: Mapping[str, int]) -> int:
    """The number of rows of `entries` numbers in a block, at least one.

    most: maximum numbers per block on a CPU (`cpu`: small blocks stay in the cache) and on any other device (`other`:
    large blocks mean fewer launches)
    """
    return max(1, most["cpu" if device.type == "cpu" else "other"] // max(1, entries))


def blocks(count: int, step: int) -> list[slice]:
    """Slices of at most `step` rows that together cover `count` rows."""
    return [slice(first, min(first + step, count)) for first in range(0, count, step)]
