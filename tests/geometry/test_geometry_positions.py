"""Fitting a model to measured positions, compared with known similarities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    with pytest.raises(NotFixedError, match=rf"^{count} photos of the model have a position, and three are needed$"):
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
def test_a_line(noise: float) -> None:
    rng = np.random.default_rng(1)
    along = np.outer(np.linspace(0, 10, 12), [0.6, 0.0, 0.8])
    with pytest.raises(NotFixedError, match="in a line"):
        fit_positions(along, 3 * along @ rotation(2).T + noise * rng.normal(size=(12, 3)))


def test_a_line_depends_on_the_accuracy_of_the_positions() -> None:
    """5 m beside a line of 100 m: known to a degree with 0.2 m noise, but not with 3 m."""
    rng = np.random.default_rng(1)
    street = np.stack([np.linspace(0, 100, 20), rng.normal(size=20) * 5, np.zeros(20)], axis=1)
    assert fit_positions(street, street + 0.2 * rng.normal(size=(20, 3))).used.mean() >= 0.9
    with pytest.raises(NotFixedError, match="in a line"):
        fit_positions(street, street + 3 * rng.normal(size=(20, 3)))


@pytest.mark.parametrize("count", [3, 4, 5, 6, 8, 12, 30])
def test_positions_unrelated_to_the_model(count: int) -> None:
    """Hardly any fit is accepted: one in a hundred, so two of twenty occur once in sixty runs."""
    rng = np.random.default_rng(count)
    taken = 0
    for _ in range(20):
        try:
            fit_positions(rng.normal(size=(count, 3)), rng.normal(size=(count, 3)))
            taken += 1
        except NotFixedError:
            pass
    assert taken <= 1


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
