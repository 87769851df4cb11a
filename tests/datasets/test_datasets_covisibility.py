"""Covisibility and the choice of tuples."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disk.datasets.covisibility import choose_tuples, covisibility


@given(st.lists(st.sets(st.integers(0, 30)), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_covisibility_is_the_shared_count_over_the_smaller_number(seen: list[set[int]]) -> None:
    result = covisibility([np.array(sorted(points), dtype=np.int64) for points in seen])
    for i, j in combinations(range(len(seen)), 2):
        smaller = min(len(seen[i]), len(seen[j]))
        expected = len(seen[i] & seen[j]) / smaller if smaller else 0
        assert result[i, j] == result[j, i] == expected


@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_tuples_are_covisible_unique_and_bounded(seed: int, size: int, per_image: int) -> None:
    covisible = np.random.default_rng(seed).random((9, 9)) < 0.6
    covisible = covisible & covisible.T
    tuples = choose_tuples(covisible, size, per_image, seed)
    assert len({tuple(row) for row in tuples.tolist()}) == len(tuples)
    for row in tuples.tolist():
        assert row == sorted(set(row))
        assert all(covisible[i, j] for i, j in combinations(row, 2))
    assert np.bincount(tuples.ravel(), minlength=9).max(initial=0) <= per_image
    np.testing.assert_array_equal(tuples, choose_tuples(covisible, size, per_image, seed))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_all_tuples_are_found_if_there_are_few(size: int) -> None:
    covisible = np.random.default_rng(1).random((8, 8)) < 0.7
    covisible = covisible & covisible.T
    expected = {row for row in combinations(range(8), size) if all(covisible[i, j] for i, j in combinations(row, 2))}
    assert {tuple(row) for row in choose_tuples(covisible, size).tolist()} == expected


def test_images_are_used_equally_often() -> None:
    """A chain, where images in the middle have twice as many neighbours as those at the ends."""
    index = np.arange(60)
    covisible = np.abs(index[:, None] - index) < 8
    uses = np.bincount(choose_tuples(covisible, 3, per_image=12).ravel(), minlength=60)
    assert uses.max() == 12
    assert uses.min() >= 11


def test_without_covisibility() -> None:
    assert choose_tuples(np.eye(5, dtype=bool), 3).shape == (0, 3)
    assert covisibility([np.zeros(0, dtype=np.int64)] * 3).sum() == 0
