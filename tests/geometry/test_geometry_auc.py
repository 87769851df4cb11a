import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from disk.geometry.auc import mean_average_accuracy, pose_auc

INF = float("inf")


def test_bounds():
    assert pose_auc([0.0] * 7, [5, 10, 20]) == pytest.approx([1, 1, 1])
    assert pose_auc([INF] * 7, [5, 10, 20]) == [0, 0, 0]
    assert mean_average_accuracy([0.0] * 7) == 1
    assert mean_average_accuracy([INF] * 7) == 0


def test_auc_by_hand():
    # (0, 0) -> (2, 1/2) -> (4, 1), constant to 5: 0.5 + 1.5 + 1 = 3 of 5
    assert pose_auc([4.0, 2.0], [5]) == pytest.approx([0.6])
    # one failure: (0, 0) -> (2, 1/2), constant to 10: 0.5 + 4 = 4.5 of 10
    assert pose_auc([INF, 2.0], [10]) == pytest.approx([0.45])
    # nothing below the threshold
    assert pose_auc([7.0], [5]) == [0]


@given(st.lists(st.floats(0, 30) | st.just(INF), min_size=1, max_size=30), st.sampled_from([5, 10, 20]))
def test_auc_is_the_integral_of_the_recall_curve(errors: list[float], threshold: int):
    """Compared with numerical quadrature of the interpolated curve, piece by piece."""
    knots = sorted(e for e in errors if e < threshold)

    def recall(x: float) -> float:
        return float(np.interp(x, [0.0, *knots], np.arange(len(knots) + 1) / len(errors)))

    edges = [0.0, *knots, float(threshold)]
    area = sum(quad(recall, a, b)[0] for a, b in pairwise(edges) if b - a > 1e-9)
    assert pose_auc(errors, [threshold])[0] == pytest.approx(area / threshold, abs=1e-6)


@given(st.lists(st.floats(0, 200), min_size=1, max_size=40), st.randoms())
def test_order_does_not_matter(errors: list[float], random):
    shuffled = list(errors)
    random.shuffle(shuffled)
    assert pose_auc(shuffled, [5, 10]) == pose_auc(errors, [5, 10])
    assert mean_average_accuracy(shuffled) == mean_average_accuracy(errors)


def test_auc_and_accuracy_of_uniform_errors():
    """Errors uniform in 0..20: recall at x is x / 20, so half of 10 / 20 on average."""
    errors = np.linspace(0, 20, 20_001)
    assert pose_auc(errors, [10])[0] == pytest.approx(0.25, abs=1e-3)
    assert mean_average_accuracy(errors) == pytest.approx(0.275, abs=1e-3)  # mean of 1/20, ..., 10/20


def test_mean_average_accuracy_by_hand():
    # below 1: 1 of 4; below 2..9: 2 of 4; below 10 (closed): 3 of 4
    assert mean_average_accuracy([0.5, 1.0, 10.0, 10.1]) == pytest.approx((1 + 8 * 2 + 3) / 4 / 10)


def test_no_errors_give_no_figure():
    with np.errstate(all="raise"):
        assert math.isnan(pose_auc([], [10])[0])
        assert math.isnan(mean_average_accuracy([]))
