"""Spatial pairs compared with the distances of all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disk.errors import DiskError
from disk.pairs import spatial as module
from disk.pairs.spatial import spatial


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(0, 30), st.integers(1, 5), st.sampled_from([None, 0.5, 1.5]))
def test_the_nearest_within_the_distance(seed: int, count: int, top_k: int, limit: float | None) -> None:
    points = np.random.default_rng(seed).normal(size=(count, 3))
    positions = {f"{i:02d}": point for i, point in enumerate(points)}
    wanted = set()
    for i in range(count):
        order = sorted((j for j in range(count) if j != i), key=lambda j: np.linalg.norm(points[i] - points[j]))
        for j in order[:top_k]:
            if limit is None or np.linalg.norm(points[i] - points[j]) <= limit:
                wanted.add((f"{min(i, j):02d}", f"{max(i, j):02d}"))
    assert spatial(positions, top_k, limit) == sorted(wanted)


def test_more_images_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    positions = {f"{i:02d}": np.array([i**1.5, 0, 0]) for i in range(10)}
    whole = spatial(positions, 2)
    monkeypatch.setattr(module, "_BLOCK", 3)
    assert spatial(positions, 2) == whole


def test_metres_count_far_from_the_origin() -> None:
    """Half a metre at 6,000 km: the product form of distances would lose it."""
    positions = {name: np.array([6e6 + x, 0, 0]) for name, x in {"a": 0.0, "b": 0.5, "c": 1.5}.items()}
    assert spatial(positions, 1) == [("a", "b"), ("b", "c")]


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_an_invalid_distance(limit: float) -> None:
    with pytest.raises(DiskError, match=r"max_distance=.*: must be above 0"):
        spatial({}, 1, limit)
    with pytest.raises(DiskError, match="top_k=0"):
        spatial({}, 0)
