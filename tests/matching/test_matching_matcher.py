"""The only factory of matchers: what it creates from its arguments, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from disk.errors import DiskError
from disk.features import Features, Matches
from disk.matching import matcher
from disk.matching.matcher import make_matcher
from disk.matching.nearest import mutual_nearest

CPU = torch.device("cpu")
WEIGHTS = {"a": torch.zeros(1)}, Path("w.pth")


def features(n: int, seed: int) -> Features:
    descriptors = torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))
    return Features(torch.rand(n, 2), torch.nn.functional.normalize(descriptors, dim=1), torch.zeros(n))


@pytest.mark.parametrize("ratio", [None, 0.9])
def test_nearest_neighbours_of_each_pair_without_sizes(ratio: float | None) -> None:
    pairs = [(features(30, 0), features(20, 1)), (features(25, 2), features(40, 3))]
    found = make_matcher("mnn", CPU, ratio)([(f0, f1, None, None) for f0, f1 in pairs])
    assert [matches.indices.tolist() for matches in found] == [
        mutual_nearest(f0.descriptors, f1.descriptors, ratio).indices.tolist() for f0, f1 in pairs
    ]
    assert all(len(matches) > 3 for matches in found)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replaces LightGlue: records its arguments, then its inputs."""
    calls: list[Any] = []

    class Recorder:
        def __init__(self, *arguments: Any) -> None:
            calls.append(arguments)

        def match(self, *arguments: Any) -> Matches:
            calls.append(arguments)
            return Matches(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1))

    monkeypatch.setattr(matcher, "LightGlue", Recorder)
    return calls


def test_lightglue_is_created_once_and_gets_each_pair_with_its_sizes(made: list[Any]) -> None:
    f0, f1 = features(3, 0), features(4, 1)
    match = make_matcher("lightglue", CPU, weights=WEIGHTS)
    assert made == [(WEIGHTS[0], CPU, False, WEIGHTS[1])]
    found = match([(f0, f1, (5, 6), (7, 8)), (f1, f0, (7, 8), (5, 6))])
    assert made[1:] == [(f0, f1, (5, 6), (7, 8)), (f1, f0, (7, 8), (5, 6))]
    assert [len(matches) for matches in found] == [1, 1]
    made.clear()
    make_matcher("lightglue", CPU, weights=WEIGHTS, half=True)
    assert made == [(WEIGHTS[0], CPU, True, WEIGHTS[1])]


def test_missing_inputs_of_lightglue_are_reported(made: list[Any]) -> None:
    with pytest.raises(DiskError, match="the ratio test is for nearest neighbours"):
        make_matcher("lightglue", CPU, 0.9, weights=WEIGHTS)
    with pytest.raises(DiskError, match="needs weights"):
        make_matcher("lightglue", CPU)
    assert made == []
    match = make_matcher("lightglue", CPU, weights=WEIGHTS)
    for sizes in ((None, (5, 6)), ((5, 6), None), (None, None)):
        with pytest.raises(DiskError, match="needs the sizes of the images"):
            match([(features(3, 0), features(4, 1), *sizes)])
