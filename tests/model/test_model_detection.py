"""Keypoints from heatmaps, compared with brute force and with the probabilities themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from disk.model.detection import nms, refine, sample_grid

# few values, so that plateaus and ties are common
heatmaps = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(-2, 3))


def brute_force(heatmap, window):
    """By definition: a pixel stays if it is the arg-max (the first in reading order) of its window and above 0."""
    height, width = heatmap.shape
    reach = window // 2
    kept = []
    for y in range(height):
        for x in range(width):
            rows, columns = (
                range(max(0, y - reach), min(height, y + reach + 1)),
                range(max(0, x - reach), min(width, x + reach + 1)),
            )
            best = max((heatmap[r, c], -r, -c) for r in rows for c in columns)
            if heatmap[y, x] > 0 and best == (heatmap[y, x], -y, -x):
                kept.append((-heatmap[y, x], y, x))
    return [(x, y, -score) for score, y, x in sorted(kept)]


@settings(max_examples=150, deadline=None)
@given(heatmaps, st.sampled_from([1, 3, 5]))
def test_nms_equals_the_definition(heatmap, window):
    points, scores = nms(torch.from_numpy(heatmap), window)
    got = [(x, y, s) for (x, y), s in zip(points.tolist(), scores.tolist(), strict=True)]
    assert got == brute_force(heatmap, window)


@settings(max_examples=50, deadline=None)
@given(heatmaps, st.integers(0, 8))
def test_n_keeps_exactly_the_best(heatmap, n):
    points, _ = nms(torch.from_numpy(heatmap), 3)
    best, scores = nms(torch.from_numpy(heatmap), 3, n)
    assert len(best) == min(n, len(points))
    assert best.tolist() == points[:n].tolist()
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)


def test_nothing_above_zero_gives_no_points():
    points, scores = nms(torch.full((5, 7), -1.0))
    assert points.shape == (0, 2)
    assert scores.shape == (0,)


@settings(max_examples=50, deadline=None)
@given(st.floats(2, 7), st.floats(2, 5), st.floats(0.1, 3), st.floats(0.1, 3), st.floats(-100, 100))
def test_the_peak_of_a_paraboloid_is_found(x, y, a, b, height):
    rows, columns = torch.arange(8.0)[:, None], torch.arange(10.0)
    heatmap = height - a * (columns - x) ** 2 - b * (rows - y) ** 2
    nearest = torch.tensor([[round(x), round(y)]])
    torch.testing.assert_close(refine(heatmap, nearest), torch.tensor([[x, y]]), rtol=0, atol=2e-3)


@settings(max_examples=100, deadline=None)
@given(heatmaps, st.sampled_from([1, 3, 5]))
def test_a_peak_is_within_half_a_pixel_of_its_pixel_and_within_the_image(heatmap, window):
    points, _ = nms(torch.from_numpy(heatmap), window)
    moved = refine(torch.from_numpy(heatmap), points)
    assert moved.shape == points.shape
    assert ((moved - points).abs() <= 0.5).all()
    assert (moved >= 0).all()
    assert (moved <= torch.tensor(heatmap.shape[::-1]) - 1).all()


def test_a_pixel_at_the_border_below_a_neighbour_or_on_a_plateau_is_not_refined():
    heatmap = torch.tensor([[3.0, 2.0, 5.0], [1.0, 1.0, 6.0], [4.0, 4.0, 4.0]])
    points = torch.tensor([[0, 0], [1, 0], [2, 1], [1, 2], [1, 1]])
    # 6 is at the border along x; the vertex of 5, 6, 4 along y is 1/6 of a pixel above it
    expected = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 1 - 1 / 6], [1.0, 2.0], [1.0, 1.0]])
    torch.testing.assert_close(refine(heatmap, points), expected)


@pytest.mark.parametrize("size", [(8, 8), (8, 40), (40, 8)])
def test_grid_of_one_cell_rows_and_columns(size):
    heatmap = torch.full((2, *size), 20.0)  # always accepted
    drawn = sample_grid(heatmap, torch.Generator().manual_seed(0))
    for points, _ in drawn:
        cells = {(x // 8, y // 8) for x, y in points.tolist()}
        assert len(points) == len(cells) == size[0] * size[1] // 64


def test_nothing_is_accepted_from_a_very_low_heatmap():
    ((points, log_p),) = sample_grid(torch.full((1, 16, 16), -50.0), torch.Generator().manual_seed(0))
    assert points.shape == (0, 2)
    assert log_p.shape == (0,)


def test_log_probability_is_proposal_times_acceptance():
    heatmap = torch.randn(1, 16, 24)
    ((points, log_p),) = sample_grid(heatmap, torch.Generator().manual_seed(2))
    assert len(points) > 0
    for (x, y), value in zip(points.tolist(), log_p.tolist(), strict=True):
        cell = heatmap[0, y // 8 * 8 : y // 8 * 8 + 8, x // 8 * 8 : x // 8 * 8 + 8]
        logit = heatmap[0, y, x]
        expected = torch.log(torch.softmax(cell.flatten(), 0)[(y % 8) * 8 + x % 8]) + torch.log(torch.sigmoid(logit))
        assert value == pytest.approx(expected.item(), abs=1e-5)


def test_frequencies_follow_the_log_probability():
    torch.manual_seed(0)
    cell = torch.randn(8, 8)
    trials = 40_000
    drawn = sample_grid(cell.repeat(1, 1, trials), torch.Generator().manual_seed(5))
    points, log_p = drawn[0]
    counts = torch.bincount(points[:, 1] * 8 + points[:, 0] % 8, minlength=64).double()
    expected = torch.softmax(cell.flatten(), 0).double() * torch.sigmoid(cell.flatten()).double()
    deviation = (counts - trials * expected) / (trials * expected * (1 - expected)).sqrt()
    assert deviation.abs().max() < 4.5  # of 64 nearly normal variables
    x, y = points[0].tolist()
    assert log_p[0].exp().item() == pytest.approx(expected[y * 8 + x % 8].item(), rel=1e-4)


def test_the_seed_decides():
    heatmap = torch.randn(1, 32, 32)
    first, again, other = (sample_grid(heatmap, torch.Generator().manual_seed(s))[0][0] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)
