import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.special import gammaln, logsumexp
from scipy.stats import binom

from disk.geometry.chance import chance_of_inlier, log10_false_alarms


@example(142, 0.78125, 0.001)
@given(st.integers(9, 3000), st.floats(0, 1), st.floats(1e-3, 0.2))
def test_false_alarms_are_a_bound_on_the_tail_of_the_binomial_distribution(n: int, share: float, chance: float):
    """Each of the C(n, 7) samples proposes three geometries, which the other n - 7 matches fit by chance."""
    k = 8 + round(share * (n - 8))
    log10_samples = (gammaln(n + 1) - gammaln(8) - gammaln(n - 6)) / math.log(10)
    found = log10_false_alarms(n, k, chance)
    tail = logsumexp(binom.logpmf(np.arange(k - 7, n - 6), n - 7, chance))  # scipy's tail underflows
    expected = math.log10(3) + log10_samples + tail / math.log(10)
    assert found > expected - 1e-6
    # tight for rare events, except the factors (n - 7) and (1 - chance)^(n - k)
    assume(k > 7 + 2 * chance * (n - 7))
    assert found < expected + math.log10(n - 7) - (n - k) * math.log10(1 - chance) + 1e-6


def test_the_seven_matches_of_the_sample_are_no_evidence():
    for matches in (0, 7, 500):
        assert log10_false_alarms(matches, min(matches, 7), 0.01) == math.inf
    assert log10_false_alarms(20, 15, 0.01) < 0 < log10_false_alarms(500, 15, 0.01)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (300, 900), (1, 1)])
def test_chance_of_an_inlier_against_random_lines(width: int, height: int):
    rng = np.random.default_rng(0)
    corner = np.array([width, height])
    on_line, points = rng.uniform(size=(2, 100_000, 2)) * corner
    angle = rng.uniform(0, np.pi, 100_000)
    distance = np.abs(((points - on_line) * np.stack([np.sin(angle), np.cos(angle)], 1)).sum(1))
    share = (distance < 4).mean()
    assert share <= chance_of_inlier(width, height, 4) < 3 * share


def test_chance_of_an_inlier_is_the_area_of_the_longest_strip():
    """640 x 480: the diagonal of 800 px, 4 px to each side, over 307,200 px; at most 1."""
    assert chance_of_inlier(640, 480, 4) == pytest.approx(8 * 800 / 307_200)
    assert chance_of_inlier(30, 40, 12) == chance_of_inlier(30, 40, 1000) == 1


def test_false_alarms_of_another_model_by_hand():
    """3 of 5 matches agree with one of 2 geometries through any 1: 2 * 4 * C(5, 3) * C(3, 1) * 0.1^2 = 2.4."""
    assert log10_false_alarms(5, 3, 0.1, sample=1, solutions=2) == pytest.approx(math.log10(2.4))


def test_false_alarms_of_epipolar_geometries_by_hand():
    """8 of 9 matches, three geometries per 7: 3 * (9 - 7) * C(9, 8) * C(8, 7) = 432; the 8th fits with chance 0.1."""
    assert log10_false_alarms(9, 8, 0.1) == pytest.approx(math.log10(43.2))
