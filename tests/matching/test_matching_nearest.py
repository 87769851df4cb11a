"""Compared with a brute-force float64 reference, including ties, and with kornia."""

from __future__ import annotations

import itertools
import math
import os

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from disk.errors import DiskError
from disk.matching.nearest import mutual_nearest
from disk.workers import _pool


def reference(d0: torch.Tensor, d1: torch.Tensor, ratio: float | None) -> list[tuple[int, int]]:
    """The plain definition: lowest index among ties (within 1e-12), which fail; strict ratio both ways."""
    similarity = d0.double().numpy() @ d1.double().numpy().T

    def nearest(line: np.ndarray) -> tuple[int, bool]:
        best = int(np.flatnonzero(line >= line.max() - 1e-12)[0])
        if ratio is None or len(line) == 1:
            return best, True
        if np.delete(line, best).max() >= line.max() - 1e-12:
            return best, False
        first = math.sqrt(max(0.0, 2 - 2 * line[best]))
        second = math.sqrt(max(0.0, 2 - 2 * np.delete(line, best).max()))
        return best, first < ratio * second

    pairs = []
    for i in range(len(d0)):
        if len(d1):
            j, passes = nearest(similarity[i])
            back, passes_back = nearest(similarity[:, j])
            if back == i and passes and passes_back:
                pairs.append((i, j))
    return pairs


def as_list(matches) -> list[tuple[int, int]]:
    return [tuple(pair) for pair in matches.indices.tolist()]


def unit(n: int, d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator))


# every vector of length one in four dimensions with entries 0, 1/2 and 1: similarities are exact and full of ties
_EXACT = torch.cat([torch.eye(4), -torch.eye(4), torch.tensor(list(itertools.product((0.5, -0.5), repeat=4)))])
_choices = st.lists(st.integers(0, len(_EXACT) - 1), max_size=90)
_ratios = st.sampled_from([None, 0.5, 0.8, 0.95, 1.0])


@settings(max_examples=150, deadline=None)
@given(rows=_choices, columns=_choices, ratio=_ratios, entries=st.sampled_from([1, 1024, 3000, 4096, None]))
def test_ties_are_resolved_as_in_the_reference_for_any_tile(rows, columns, ratio, entries):
    d0, d1 = _EXACT[rows], _EXACT[columns]
    assert as_list(mutual_nearest(d0, d1, ratio, entries)) == reference(d0, d1, ratio)


@settings(max_examples=60, deadline=None)
@example(seed=30, n=14, m=25, d=128, noise=0.0, ratio=1.0, entries=1024)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(0, 150),
    m=st.integers(0, 150),
    d=st.sampled_from([2, 32, 128]),
    noise=st.sampled_from([0.0, 1e-7, 1e-4, 0.3]),
    ratio=_ratios,
    entries=st.sampled_from([1024, 5000, None]),
)
def test_equals_the_float64_reference(seed, n, m, d, noise, ratio, entries):
    generator = torch.Generator().manual_seed(seed)
    d0 = unit(n, d, seed)
    # copies, near copies within rounding, and unrelated descriptors
    source = d0[torch.randint(n, (m,), generator=generator)] if n else unit(m, d, seed + 1)
    d1 = torch.nn.functional.normalize(source + noise * torch.randn(m, d, generator=generator))
    assert as_list(mutual_nearest(d0, d1, ratio, entries)) == reference(d0, d1, ratio)


@pytest.mark.parametrize("entries", [1024, 10_000, 200_000, None])
def test_the_size_of_a_tile_never_changes_the_result(entries):
    d0, d1 = unit(300, 64, 0), unit(500, 64, 1)
    whole = mutual_nearest(d0, d1, 0.98)
    tiled = mutual_nearest(d0, d1, 0.98, entries)
    assert len(whole) > 10
    assert torch.equal(whole.indices, tiled.indices)
    assert torch.equal(whole.distances, tiled.distances)


def test_agrees_with_kornia():
    kornia = pytest.importorskip("kornia.feature")
    d0, d1 = unit(500, 128, 2), unit(1500, 128, 3)
    distances, indices = kornia.match_mnn(d0, d1)
    ours = mutual_nearest(d0, d1)
    order = indices[:, 0].argsort()
    assert torch.equal(ours.indices, indices[order])
    torch.testing.assert_close(ours.distances, distances[order, 0], atol=1e-5, rtol=0)
    _, indices = kornia.match_smnn(d0, d1, 0.97)
    assert as_list(mutual_nearest(d0, d1, 0.97)) == sorted(tuple(pair) for pair in indices.tolist())


def test_distances_are_euclidean_down_to_zero():
    d0 = unit(40, 128, 4)
    d1 = torch.nn.functional.normalize(d0 + 1e-5 * unit(40, 128, 5))
    d1[:10] = d0[:10]
    distances = mutual_nearest(d0, d1).distances
    expected = (d0.double() - d1.double()).norm(dim=1).float()
    torch.testing.assert_close(distances, expected, atol=1e-9, rtol=1e-3)
    assert (distances[:10] == 0).all()


def test_no_one_and_two_features():
    a, b, none = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.empty(0, 2)
    for d0, d1 in ((none, none), (none, a), (a, none)):
        empty = mutual_nearest(d0, d1, 0.9)
        assert empty.indices.shape == (0, 2)
        assert empty.distances.shape == (0,)
    # one feature has no second neighbour to be confused with
    assert as_list(mutual_nearest(a, b, 0.9)) == [(0, 0)]
    both = torch.cat([a, b])
    assert as_list(mutual_nearest(a, both, 0.9)) == [(0, 0)]
    assert as_list(mutual_nearest(both, both.flip(0), 0.9)) == [(0, 1), (1, 0)]
    twice = torch.cat([a, a])
    assert as_list(mutual_nearest(a, twice)) == [(0, 0)]
    assert as_list(mutual_nearest(a, twice, 1.0)) == []


def test_blank_images_of_equal_descriptors_match_once_and_fail_any_ratio():
    same = unit(1, 16, 0).expand(200, 16)
    assert as_list(mutual_nearest(same, same[:130], max_entries=2000)) == [(0, 0)]
    assert as_list(mutual_nearest(same, same[:130], 1.0)) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_matched_directly(dtype):
    d0, d1 = unit(60, 16, 6).to(dtype), unit(70, 16, 7).to(dtype)
    assert as_list(mutual_nearest(d0, d1, 0.97)) == reference(d0.double(), d1.double(), 0.97)


def test_torchs_low_precision_settings_do_not_change_the_result():
    d0, d1 = unit(300, 128, 8), unit(300, 128, 9)
    expected = as_list(mutual_nearest(d0, d1, 0.95))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert as_list(mutual_nearest(d0, d1, 0.95)) == expected
    finally:
        torch.set_float32_matmul_precision(before)
    with torch.autocast("cpu", torch.bfloat16):
        assert as_list(mutual_nearest(d0, d1, 0.95)) == expected


def test_memory_is_bounded_by_the_tile():
    class Largest(TorchDispatchMode):
        entries = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.entries = max(self.entries, result.numel())
            return result

    d0, d1 = unit(1000, 4, 10), unit(1200, 4, 11)
    mutual_nearest(d0, d1, 0.9, max_entries=10_000)  # the first call measures which product is fastest here
    with Largest() as largest:
        mutual_nearest(d0, d1, 0.9, max_entries=10_000)
    assert 5000 < largest.entries <= 10_000


def test_cores_share_the_work_and_agree(threads):
    d0, d1 = unit(1100, 32, 0), unit(1000, 32, 1)
    alone = mutual_nearest(d0, d1, 0.99)
    threads(3)
    shared = mutual_nearest(d0, d1.clone().requires_grad_(), 0.99)
    assert torch.get_num_threads() == 3
    assert list(_pool(3, os.getpid()).map(lambda _: torch.get_num_threads(), range(3))) == [1, 1, 1]
    assert len(alone) > 20
    assert torch.equal(alone.indices, shared.indices)
    assert torch.equal(alone.distances, shared.distances)
    assert as_list(alone) == reference(d0, d1, 0.99)


@pytest.mark.parametrize("ratio", [0.0, -1.0, 1.5, float("nan")])
def test_an_impossible_ratio_is_refused(ratio):
    with pytest.raises(DiskError, match="ratio"):
        mutual_nearest(unit(3, 4, 0), unit(3, 4, 1), ratio)


def test_invalid_descriptors_are_refused():
    with pytest.raises(DiskError, match="length 4 and 8"):
        mutual_nearest(unit(3, 4, 0), unit(3, 8, 1))
    broken = unit(3, 4, 0)
    broken[1, 2] = float("nan")
    with pytest.raises(DiskError, match="NaN"):
        mutual_nearest(broken, unit(3, 4, 1))
