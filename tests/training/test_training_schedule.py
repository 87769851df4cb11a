from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disk.training.options import TrainOptions
from disk.training.schedule import Weights, learning_rate, weights_at


@pytest.mark.parametrize(
    ("epoch", "ramp", "theta"),
    [(0, 0, 15), (1, 0.1, 16.75), (2, 0.5, 18.5), (4, 0.9, 22), (5, 1, 23.75), (20, 1, 50), (60, 1, 50)],
)
def test_default_is_the_authors_script(epoch: int, ramp: float, theta: float) -> None:
    weights = weights_at("default", epoch)
    expected = Weights(positive=1.0, negative=-0.25 * ramp, keypoint=-0.001 * ramp, theta=float(theta))
    assert vars(weights) == pytest.approx(vars(expected))


@pytest.mark.parametrize(("epoch", "theta"), [(0, 15), (5, 20), (10, 25), (49, 25), (50, 25), (70, 45)])
def test_paper_trains_50_epochs_and_then_fine_tunes(epoch: int, theta: float) -> None:
    assert weights_at("paper", epoch).theta == theta


def test_a_rate_without_a_final_one_falls_to_zero() -> None:
    assert learning_rate("cosine", 9, 10, peak=1.0) == pytest.approx(0)
    assert learning_rate("cosine", 4, 10, peak=1.0) == pytest.approx(0.5)
    assert learning_rate("cosine", 0, 1, peak=1.0) == pytest.approx(0)
    assert learning_rate("cosine", 25, 10, peak=1.0) == pytest.approx(0)  # beyond the end


def test_penalties_never_shrink() -> None:
    penalties = [(-w.negative, -w.keypoint) for w in (weights_at("default", epoch) for epoch in range(60))]
    assert penalties == sorted(penalties)
    assert penalties[0] == (0, 0)


@given(st.integers(1, 300), st.integers(0, 50), st.sampled_from(["constant", "cosine"]))
def test_learning_rate_rises_evenly_and_falls_to_the_final_one(steps: int, warmup: int, schedule) -> None:
    rates = [learning_rate(schedule, i, steps, peak=4e-4, final=1e-5, warmup=warmup) for i in range(steps)]
    assert rates[:warmup] == pytest.approx([4e-4 * (i + 1) / warmup for i in range(min(warmup, steps))])
    later = rates[warmup:]
    assert later == sorted(later, reverse=True)
    if later:
        assert later[-1] == pytest.approx(1e-5 if schedule == "cosine" else 4e-4)
        assert all(1e-5 * 0.999 <= rate <= 4e-4 for rate in later)


def test_half_a_cosine() -> None:
    """The mean of the two rates at half of the steps, and the cosine of 45 degrees at a quarter."""
    rates = [learning_rate("cosine", i, 110, peak=1.0, final=0.2, warmup=10) for i in (34, 59, 84)]
    assert rates == pytest.approx([0.6 + 0.4 * 0.5**0.5, 0.6, 0.6 - 0.4 * 0.5**0.5])


def test_steps_are_counted_through_epochs_with_a_remainder_each() -> None:
    """Epoch 0 has at most the batches of a chunk; the rest at the end of an epoch makes a step too."""
    options = TrainOptions(chunk_size=5, warmup=3, substep=2)
    assert [options.batches(epoch) for epoch in range(3)] == [3, 5, 5]
    assert [options.step(epoch, batch) for epoch, batch in ((0, 0), (0, 2), (0, 3), (1, 0), (1, 4), (2, 0))] == [
        0, 1, 2, 2, 4, 5
    ]  # fmt: skip
    assert TrainOptions(chunk_size=3, warmup=250).batches(0) == 3
    assert TrainOptions(chunk_size=5, substep=2, epoch_offset=7).step(9, 0) == 6
