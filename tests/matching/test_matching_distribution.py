from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import softmax
from torch.nn.functional import normalize

from disk.matching import distribution
from disk.matching.distribution import MatchDistribution, distance_floor


def unit(n: int, d: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)


def probabilities(d0: torch.Tensor, d1: torch.Tensor, theta: float) -> torch.Tensor:
    return of_pairs(MatchDistribution(d0[None], d1[None], theta))[0]


def of_pairs(matching: MatchDistribution) -> torch.Tensor:
    rows = [torch.mul(*matching.choices(matching.distance(block), block)) for block in matching.blocks()]
    return torch.cat(rows, 1) if rows else torch.zeros(len(matching.d0), matching.d0.shape[1], matching.d1.shape[1])


@pytest.mark.parametrize("block", [5, 20, 1 << 20])
@pytest.mark.parametrize("theta", [1.0, 50.0, 5000.0])
def test_equals_scipy(block: int, theta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(distribution._BLOCK, "cpu", block)
    d0, d1 = unit(7), unit(5, seed=1)
    affinity = -theta * cdist(d0.numpy(), d1.numpy())
    expected = softmax(affinity, axis=0) * softmax(affinity, axis=1)
    np.testing.assert_allclose(probabilities(d0, d1, theta).numpy(), expected, rtol=1e-9, atol=1e-300)


def test_sharpens_to_mutual_nearest_neighbours() -> None:
    d0, d1 = unit(30), unit(20, seed=1)
    distance = cdist(d0.numpy(), d1.numpy())
    mutual = (distance == distance.min(0)) & (distance == distance.min(1, keepdims=True))
    np.testing.assert_array_equal(probabilities(d0, d1, 1e5).numpy() > 0.5, mutual)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_descriptors_have_a_distance_above_0(dtype: torch.dtype) -> None:
    d0 = unit(5, d=128).to(dtype)
    matching = MatchDistribution(d0[None], d0[None], 50.0)
    distance = matching.distance(slice(0, 5))[0]
    assert (distance.diagonal() <= 2 * matching.floor).all()
    assert (distance >= matching.floor * (1 - 1e-6)).all()
    assert (probabilities(d0, d0, 50.0).diagonal() > 0.99).all()


def test_a_distance_has_a_floor_where_rounding_begins() -> None:
    """2 - 2 a.b is off by a few units in the last place of 2: the square root of 8 of those of 1."""
    assert distance_floor(torch.float64) == pytest.approx(2**1.5 * 2**-26, rel=1e-12)
    assert distance_floor(torch.float32) == pytest.approx(2**1.5 * 2**-11.5, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_empty(n: int, m: int) -> None:
    assert probabilities(unit(n), unit(m), 15.0).shape == (n, m)


def test_single_features_match_for_certain() -> None:
    assert probabilities(unit(1), unit(1, seed=1), 15.0).item() == 1


@pytest.mark.parametrize("block", [20, 1 << 20])
def test_pairs_are_independent_of_each_other_and_of_padding(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(distribution._BLOCK, "cpu", block)
    counts = [(7, 5), (4, 6), (0, 3), (2, 0), (1, 1), (0, 0)]
    d0, d1 = torch.zeros(6, 7, 8, dtype=torch.float64), torch.zeros(6, 6, 8, dtype=torch.float64)
    for p in range(6):
        # the padding must not matter
        d0[p], d1[p] = unit(7, seed=p), unit(6, seed=p + 10)
    found = of_pairs(MatchDistribution(d0, d1, 15.0, *torch.tensor(counts).unbind(1)))
    for p, (n, m) in enumerate(counts):
        expected = torch.zeros(7, 6, dtype=torch.float64)
        expected[:n, :m] = probabilities(d0[p, :n], d1[p, :m], 15.0)
        torch.testing.assert_close(found[p], expected, rtol=1e-12, atol=0)
