from __future__ import annotations

import pytest

from disk.training.schedule import Weights, weights_at


@pytest.mark.parametrize(
    ("epoch", "ramp", "theta"), [(0, 0, 15), (1, 0.1, 16.75), (2, 0.5, 18.5), (4, 0.9, 22), (5, 1, 23.75), (20, 1, 50)]
)
def test_default_is_the_authors_script(epoch: int, ramp: float, theta: float) -> None:
    weights = weights_at("default", epoch)
    expected = Weights(positive=1.0, negative=-0.25 * ramp, keypoint=-0.001 * ramp, theta=float(theta))
    assert vars(weights) == pytest.approx(vars(expected))


@pytest.mark.parametrize(("epoch", "theta"), [(0, 15), (5, 20), (10, 25), (49, 25), (50, 25), (70, 45)])
def test_paper_trains_50_epochs_and_then_fine_tunes(epoch: int, theta: float) -> None:
    assert weights_at("paper", epoch).theta == theta


def test_penalties_never_shrink() -> None:
    penalties = [(-w.negative, -w.keypoint) for w in (weights_at("default", epoch) for epoch in range(60))]
    assert penalties == sorted(penalties)
    assert penalties[0] == (0, 0)
