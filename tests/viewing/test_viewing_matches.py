"""The picture of matches: colours, legend, thinned lines, and the choice of lines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from viewing_helpers import close_to, pixels, texts

from disk.viewing import canvas
from disk.viewing.matches import BAD, GAP, GOOD, Group, draw_matches, share_lines, spread, verified

BLACK = np.zeros((300, 400, 3), np.uint8)


def groups(good: np.ndarray) -> list[Group]:
    return [Group("not verified", BAD, ~good), Group("verified", GOOD, good)]


def draw(start: np.ndarray, end: np.ndarray, good: np.ndarray, images: tuple = (BLACK, BLACK), **options) -> Figure:
    figure = Figure()
    ends = (np.asarray(start, np.float32), np.asarray(end, np.float32))
    draw_matches(figure, images, ends, groups(np.asarray(good)), ("left", "right"), **options)
    return figure


def drawn_lines(figure: Figure) -> list[np.ndarray]:
    """The coloured lines; each has a dark one beneath it."""
    collections = [c for axes in figure.axes for c in axes.collections if isinstance(c, LineCollection)]
    return [line for c in collections[1::2] for line in c.get_segments()]


def test_verified_and_other_matches_are_drawn_in_their_colours() -> None:
    start = [(100, 50), (100, 250)]
    picture = pixels(draw(start, start, [True, False]))
    width = picture.shape[1]
    scale = (width - 2 * canvas.MARGIN - GAP) / 2 / 400
    # lines between equal heights are level: search in the right image, slightly left of their end
    column = round(canvas.MARGIN + GAP + 400 * scale + 50 * scale)
    for y, colour in ((50, GOOD), (250, BAD)):
        row = canvas.HEADER + (y + 0.5) * scale
        near = picture[round(row) - 2 : round(row) + 3, column]
        assert any(close_to(pixel, colour) for pixel in near)


def test_ends_are_at_their_points_in_images_of_different_size() -> None:
    large = np.zeros((3000, 1500, 3), np.uint8)
    figure = draw([(399, 299)], [(1499, 0)], [True], images=(BLACK, large))
    (line,) = drawn_lines(figure)
    width, height = figure.get_size_inches() * canvas.DPI
    shown = height - canvas.HEADER - canvas.MARGIN - 44
    np.testing.assert_allclose(line[0], [canvas.MARGIN + 399.5 / 300 * shown, 299.5 / 300 * shown], atol=0.1)
    np.testing.assert_allclose(line[1], [width - canvas.MARGIN - 0.5 / 3000 * shown, 0.5 / 3000 * shown], atol=0.1)


def test_lines_are_thinned_out_in_proportion_and_dots_are_not() -> None:
    rng = np.random.default_rng(0)
    start, end = rng.uniform(0, 300, (2, 1000, 2))
    good = np.arange(1000) < 750
    figure = draw(start, end, good, max_lines=100)
    assert len(drawn_lines(figure)) == 100
    counts = [len(c.get_segments()) for a in figure.axes for c in a.collections if isinstance(c, LineCollection)]
    assert counts == [25, 25, 75, 75]
    dots = [len(c.get_offsets()) for a in figure.axes for c in a.collections if not isinstance(c, LineCollection)]
    assert sorted(dots) == [250, 250, 750, 750]
    assert "750 verified" in texts(figure)
    assert "250 not verified" in texts(figure)
    assert any("1000 matches" in text and "100 lines" in text for text in texts(figure))


@pytest.mark.parametrize("size", [(1, 1), (15, 4000), (4000, 15)])
def test_no_matches_and_odd_sizes(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    none = np.zeros((0, 2), np.float32)
    figure = draw(none, none, np.zeros(0, bool), images=(image, image))
    assert "0 matches" in texts(figure)
    picture = pixels(figure)
    assert picture.shape[0] < 1300
    assert picture.shape[1] < 2100


def test_verified_marks_inliers_among_matches() -> None:
    matches = np.array([[0, 1, 2, 3], [7, 6, 5, 4]])
    inliers = np.array([[2, 0, 1], [5, 7, 5]])  # (1, 5) is not a match
    assert verified(matches, inliers).tolist() == [True, False, True, False]
    assert verified(matches, inliers[:, :0]).tolist() == [False] * 4
    assert verified(matches[:, :0], inliers).shape == (0,)


def test_lines_are_shared_among_groups() -> None:
    assert share_lines([3, 4], 10) == [3, 4]
    assert share_lines([900, 100], 100) == [90, 10]
    assert share_lines([100_000, 1, 0], 100) == [100, 1, 0]


def test_spread_takes_the_farthest_next() -> None:
    line = np.arange(101.0)[:, None]
    assert spread(line, 3).tolist() == [50, 0, 100]
    assert spread(line, 0).tolist() == []
    assert spread(line[:2], 5).tolist() == [0, 1]


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 2**16))
def test_spread_covers_within_twice_the_optimum(points: int, count: int, seed: int) -> None:
    """Gonzalez: the others are no farther from the chosen ones than these are from each other."""
    cloud = np.random.default_rng(seed).normal(size=(points, 4))
    chosen = spread(cloud, count)
    assert len(set(chosen.tolist())) == min(points, count)
    if 1 < count < points:
        apart = np.linalg.norm(cloud[chosen, None] - cloud[chosen], axis=2) + 1e9 * np.eye(count)
        left = np.linalg.norm(cloud[:, None] - cloud[chosen], axis=2).min(1).max()
        assert left <= apart.min() + 1e-9
