"""Fitting a model to measured positions, compared with known similarities."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disk.geometry.pose import align_similarity
from disk.geometry.positions import NotFixedError, fit_positions


def rotation(seed: int) -> np.ndarray:
    Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return Q * np.sign(np.linalg.det(Q))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(7, 40), st.floats(0.01, 1000), st.floats(0, 0.35))
def test_the_similarity_is_found_despite_outliers(seed: int, count: int, scale: float, wrong: float) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, 3))
    R, t = rotation(seed), rng.normal(size=3) * 100
    positions = scale * centres @ R.T + t
    bad = rng.permutation(count)[: min(int(wrong * count), (count - 4) // 2)]
    positions[bad] += scale * rng.uniform(0.1, 100, (len(bad), 1)) * rotation(seed + 1)[0]
    fit = fit_positions(centres, positions)
    assert fit.scale == pytest.approx(scale, rel=1e-6)
    np.testing.assert_allclose(fit.R, R, atol=1e-6)
    np.testing.assert_allclose(fit.t, t, atol=1e-5 * scale + 1e-6)
    assert np.flatnonzero(~fit.used).tolist() == sorted(bad.tolist())


def test_residuals_equal_the_noise() -> None:
    """400 positions with 1 m noise on each axis: root mean square sqrt(3), and few count as wrong."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(400, 3))
    fit = fit_positions(centres, 50 * centres + rng.normal(size=(400, 3)))
    assert np.sqrt((fit.residuals**2).mean()) == pytest.approx(3**0.5, rel=0.05)
    assert fit.used.mean() > 0.97
    assert fit.scale == pytest.approx(50, rel=3e-3)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three(count: int) -> None:
    with pytest.raises(NotFixedError, match=rf"^a position for only {count} photos? of the model; three are needed$"):
        fit_positions(np.eye(3)[:count], np.eye(3)[:count])


def test_a_single_position() -> None:
    with pytest.raises(NotFixedError, match="all 5 photos have the same position"):
        fit_positions(np.random.default_rng(0).normal(size=(5, 3)), np.full((5, 3), 7.0))
    with pytest.raises(NotFixedError, match="all cameras of the model are in one place"):
        fit_positions(np.ones((5, 3)), np.random.default_rng(0).normal(size=(5, 3)))
    mostly = np.full((9, 3), 7.0)
    mostly[:2] = [[0, 0, 0], [50, 0, 0]]
    with pytest.raises(NotFixedError):
        fit_positions(np.random.default_rng(0).normal(size=(9, 3)), mostly)


@pytest.mark.parametrize("noise", [0.0, 1e-6, 0.05])
@pytest.mark.parametrize("away", [0.0, 500.0])
def test_a_line(noise: float, away: float) -> None:
    rng = np.random.default_rng(1)
    along = np.outer(np.linspace(0, 10, 12), [0.6, 0.0, 0.8])
    with pytest.raises(NotFixedError, match="in a line"):
        fit_positions(along, 3 * along @ rotation(2).T + noise * rng.normal(size=(12, 3)) + [0, away, 0])


def test_a_line_depends_on_the_accuracy_of_the_positions() -> None:
    """5 m beside a line of 100 m: known to a degree with 0.2 m noise, but not with 3 m."""
    rng = np.random.default_rng(1)
    street = np.stack([np.linspace(0, 100, 20), rng.normal(size=20) * 5, np.zeros(20)], axis=1)
    assert fit_positions(street, street + 0.2 * rng.normal(size=(20, 3))).used.mean() >= 0.9
    with pytest.raises(NotFixedError, match="in a line"):
        fit_positions(street, street + 3 * rng.normal(size=(20, 3)))


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7, 8, 12, 30])
def test_positions_unrelated_to_the_model(count: int) -> None:
    """Hardly any fit is accepted: one in a hundred, so two of twenty occur once in sixty runs."""
    rng = np.random.default_rng(count)
    taken, refused = 0, []
    for _ in range(20):
        try:
            fit_positions(rng.normal(size=(count, 3)), rng.normal(size=(count, 3)))
            taken += 1
        except NotFixedError as error:
            refused.append(str(error))
    assert taken <= 1
    assert sum("do not agree" in reason for reason in refused) >= 17


def test_how_far_off_the_positions_are() -> None:
    """Root mean square over 12 coordinates less the 7 parameters of the similarity, for 3 coordinates a position."""
    rng = np.random.default_rng(0)
    centres, positions = rng.normal(size=(4, 3)), 100 * rng.normal(size=(4, 3))
    scale, R, t = align_similarity(centres, positions)
    squared = ((scale * centres @ R.T + t - positions) ** 2).sum()
    with pytest.raises(NotFixedError, match="do not agree") as caught:
        fit_positions(centres, positions)
    (off, extent) = (float(number) for number in re.findall(r"([\d.]+) m\b", str(caught.value)))
    assert off == pytest.approx(math.sqrt(3 * squared / 5), rel=0.01)
    assert extent == pytest.approx(math.sqrt(3 * positions.var(0).mean()), rel=0.01)


def test_positions_within_three_standard_deviations_are_used() -> None:
    """A fifth of the positions is exact, the others are 2 m off: of the 52 best the root mean square is 1.57 m."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(102, 3))
    off = np.where(np.arange(102) % 5 == 0, 0, 2.0)
    off[[1, 2]] = 4.2, 5.3
    direction = rng.normal(size=(102, 3))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    fit = fit_positions(centres, 1000 * centres + off[:, None] * direction)
    assert np.flatnonzero(~fit.used).tolist() == [2]


@pytest.mark.parametrize(("right", "wrong"), [(8, 5), (23, 18)])
def test_a_minority_that_agrees_with_itself(right: int, wrong: int) -> None:
    """The first positions are those of another place; the first three cameras are in one place."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(right + wrong, 3))
    centres[1:3] = centres[0]
    positions = 10 * centres
    positions[:wrong] = 10 * centres[:wrong] @ rotation(5).T + [300, 0, 0]
    fit = fit_positions(centres, positions)
    assert fit.used.tolist() == [False] * wrong + [True] * right
    np.testing.assert_allclose(fit.R, np.eye(3), atol=1e-6)


def test_more_than_half_must_agree() -> None:
    """49 exact positions of 100 are not enough to call the others wrong."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(100, 3))
    positions = 1000 * centres
    direction = rng.normal(size=(51, 3))
    positions[49:] += 10 * direction / np.linalg.norm(direction, axis=1)[:, None]
    assert fit_positions(centres, positions).used.sum() >= 52


def test_wrong_positions_among_inexact_ones() -> None:
    """15 standard deviations off: rejected, so the fit is the same as without them."""
    rng = np.random.default_rng(4)
    centres = rng.normal(size=(60, 3))
    positions = 50 * centres + rng.normal(size=(60, 3))
    alone = fit_positions(centres[10:], positions[10:])
    positions[:10, 0] += 15
    fit = fit_positions(centres, positions)
    assert not fit.used[:10].any()
    assert fit.used[10:].mean() > 0.9
    assert fit.scale == pytest.approx(alone.scale, rel=2e-3)
