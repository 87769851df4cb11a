"""Pairs of images taken near each other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from disk.blocks import blocks
from disk.errors import DiskError
from disk.options import check_minimum, option
from disk.pairs.choose import Pair
from disk.shapes import Float

_BLOCK = 1024  # images compared with all others at once


def spatial(
    positions: Mapping[str, Float[np.ndarray, " 3"]], top_k: int, max_distance: float | None = None
) -> list[Pair]:
    """Pair each image with its `top_k` nearest others.

    positions: of the images, in metres
    max_distance: in metres; pairs farther apart are skipped; None: no limit

    Raises DiskError for top_k below 1, and for a distance that is not above 0.
    """
    check_minimum("top_k", top_k, 1)
    check_distance(max_distance)
    names = sorted(positions)
    if len(names) < 2:
        return []
    places = torch.from_numpy(np.stack([positions[name] for name in names]).astype(np.float64))
    pairs = set()
    for some in blocks(len(names), _BLOCK):
        distances = torch.cdist(places[some], places, compute_mode="donot_use_mm_for_euclid_dist")
        distances.diagonal(some.start).fill_(torch.inf)  # an image is not its own neighbour
        nearest = distances.topk(min(top_k, len(names) - 1), largest=False)
        for i, (row, others) in enumerate(zip(nearest.values.tolist(), nearest.indices.tolist(), strict=True)):
            first = names[some.start + i]
            for distance, j in zip(row, others, strict=True):
                if max_distance is None or distance <= max_distance:
                    pairs.add((min(first, names[j]), max(first, names[j])))
    return sorted(pairs)


def check_distance(max_distance: float | None) -> None:
    """Raise DiskError for a distance that is not above 0; None is no limit."""
    if max_distance is not None and not max_distance > 0:
        raise DiskError(f"{option('max_distance', max_distance)}: must be above 0")
