"""`disk.match` and its result."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import disk
from disk.errors import DiskError
from disk.features import Features, Matches
from disk.matching.nearest import mutual_nearest


def unit(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


def features(n: int, seed: int) -> Features:
    return Features(100 * torch.rand(n, 2), unit(n, 8, seed), torch.rand(n))


def test_features_are_matched_by_their_descriptors_and_give_points():
    f0, f1 = features(30, 0), features(20, 1)
    found = disk.match(f0, f1, ratio=0.9)
    assert torch.equal(found.indices, mutual_nearest(f0.descriptors, f1.descriptors, 0.9).indices)
    assert len(found) > 0
    assert torch.equal(found.points0, f0.keypoints[found.indices[:, 0]])
    assert torch.equal(found.points1, f1.keypoints[found.indices[:, 1]])
    assert found.scores is None


def test_one_against_many():
    f0, many = features(30, 0), [features(20, 1), features(0, 2), features(25, 3)]
    found = disk.match(f0, many, ratio=None)
    assert [f.indices.tolist() for f in found] == [disk.match(f0, f1, ratio=None).indices.tolist() for f1 in many]
    assert disk.match(f0, []) == []


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_plain_arrays_and_tensors(kind):
    d0, d1 = unit(30, 8, 0).numpy().astype(kind), unit(20, 8, 1).numpy().astype(kind)
    found = disk.match(d0, d1, ratio=0.95)
    tensors = disk.match(torch.from_numpy(d0), torch.from_numpy(d1), ratio=0.95)
    assert torch.equal(found.indices, tensors.indices)
    assert found.points0 is None
    assert disk.match(d0[::-1], d1, ratio=0.95).indices[:, 0].tolist() == sorted(29 - found.indices[:, 0].numpy())


def test_the_default_ratio_is_that_of_the_commands():
    from disk.matching.nearest import DEFAULT_RATIO
    from disk.pipeline.match_options import MatchOptions

    d0, d1 = unit(300, 8, 0), unit(300, 8, 1)
    assert torch.equal(disk.match(d0, d1).indices, disk.match(d0, d1, ratio=DEFAULT_RATIO).indices)
    assert len(disk.match(d0, d1)) < len(disk.match(d0, d1, ratio=None))
    assert MatchOptions().rt == DEFAULT_RATIO


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones((3, 8), np.uint8), r"floating point numbers of shape \(N, D\), got uint8 of shape \(3, 8\)"),
        (np.ones(8), "shape"),
        (unit(3, 4, 0), "length 8 and 4"),
        (2 * unit(3, 8, 0), "unit length"),
        ("a.jpg", "cannot match str"),
        (None, "cannot match NoneType"),
    ],
)
def test_unusable_inputs_are_refused(given, message):
    with pytest.raises(DiskError, match=message):
        disk.match(unit(5, 8, 0), given)


def test_inputs_that_are_not_arrays_are_refused():
    class Ragged:
        def __array__(self, *arguments: object, **options: object) -> np.ndarray:
            raise ValueError("setting an array element with a sequence")

    with pytest.raises(DiskError, match="cannot match Ragged"):
        disk.match(unit(5, 8, 0), Ragged())


def test_matches_can_be_pickled_and_are_compared_by_identity():
    matches = Matches(torch.tensor([[0, 1]]), torch.tensor([0.5]), torch.tensor([0.25]))
    points = matches.between(features(1, 0), features(2, 1))
    assert set(matches.numpy()) == {"indices", "distances", "scores"}
    assert set(points.cpu().numpy()) == {"indices", "distances", "scores", "points0", "points1"}
    assert points.to("cpu").scores.tolist() == [0.25]
    assert matches != points  # a comparison of tensors would raise
    assert matches in [points, matches]
    assert len({matches, points}) == 2
    assert len(matches) == 1
