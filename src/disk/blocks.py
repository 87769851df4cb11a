"""Going through large tables in blocks of rows that bound the memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def rows_at_once(entries: int, device: torch.device, most: Mapping[str, int]) -> int:
    """How many rows of `entries` numbers make a block, at least one.

    most: numbers in a block on a processor (`cpu`), where few stay in its cache, and on any other device (`other`),
    where many are fewer operations to start.
    """
    return max(1, most["cpu" if device.type == "cpu" else "other"] // max(1, entries))


def blocks(count: int, step: int) -> list[slice]:
    """Slices of at most `step` rows each that together are all `count` of them."""
    return [slice(first, min(first + step, count)) for first in range(0, count, step)]
