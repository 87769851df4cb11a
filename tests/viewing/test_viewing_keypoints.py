"""The picture of keypoints: each dot in its place and colour, at a size that suits the picture."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from viewing_helpers import pixels, texts

from disk.viewing import canvas
from disk.viewing.keypoints import draw_keypoints, mark_diameter


def draw(image: np.ndarray, keypoints: list, scores: list) -> Figure:
    figure = Figure()
    points = np.array(keypoints, np.float32).reshape(-1, 2)
    draw_keypoints(figure, image, points, np.array(scores, np.float32), "photo")
    return figure


def place(image: np.ndarray, x: float, y: float) -> tuple[int, int]:
    """(row, column) in the finished picture of a point in an image."""
    height, width = image.shape[:2]
    box = canvas.fit(width, height, 1400, 1200)
    left = canvas.MARGIN + (x + 0.5) * box[0] / width
    return int(canvas.HEADER + (y + 0.5) * box[1] / height), int(left)


@pytest.mark.parametrize("size", [(300, 400), (3000, 4000)])
def test_the_weakest_is_violet_and_the_strongest_yellow_in_their_places(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    height, width = size
    left, right = (0.25 * width, 0.5 * height), (0.75 * width, 0.5 * height)
    picture = pixels(draw(image, [left, right], [0.1, 5.0])).astype(int)
    red, green, blue = picture[place(image, *left)]
    assert blue > 130
    assert green < 60
    red, green, blue = picture[place(image, *right)]
    assert min(red, green) > 200
    assert blue < 100


def test_dollar_signs_in_a_name_are_not_a_formula() -> None:
    figure = Figure()
    title = "a$_$b.png"
    draw_keypoints(
        figure, np.zeros((300, 400, 3), np.uint8), np.zeros((0, 2), np.float32), np.zeros(0, np.float32), title
    )
    pixels(figure)
    assert title in texts(figure)


def test_the_colour_of_a_score_does_not_depend_on_the_order() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    first = pixels(draw(image, [(100, 100), (300, 100), (200, 200)], [1, 2, 3]))
    second = pixels(draw(image, [(200, 200), (100, 100), (300, 100)], [3, 1, 2]))
    np.testing.assert_array_equal(first, second)


def test_the_stronger_of_two_at_one_position_is_on_top() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    picture = pixels(draw(image, [(200, 150), (200, 150), (20, 20)], [9.0, 1.0, 1.0])).astype(int)
    assert picture[place(image, 200, 150)][1] > 200


def test_dots_are_as_large_on_a_12_megapixel_photo_as_on_a_small_one() -> None:
    lit = []
    for scale in (1, 10):
        image = np.zeros((300 * scale, 400 * scale, 3), np.uint8)
        picture = pixels(draw(image, [(200.0 * scale, 150.0 * scale)], [1.0]))
        top, left = place(image, 0, 0)
        lit.append((picture[top:1000, left:1300].max(axis=2) > 60).sum())
    assert lit[0] == pytest.approx(lit[1], rel=0.05)
    assert 60 < lit[0] < 150  # a dot of 12 pixels without its dark rim


def test_more_keypoints_get_smaller_dots_within_bounds() -> None:
    diameters = [mark_diameter(count, 1400 * 1050) for count in (1, 500, 2048, 4096, 100_000)]
    assert diameters == sorted(diameters, reverse=True)
    assert diameters[0] == 12
    assert diameters[-1] == 4
    # 2048 dots cover a twentieth: 2048 * pi / 4 * d^2 = 1400 * 1050 / 20
    assert 2048 * np.pi / 4 * diameters[2] ** 2 == pytest.approx(1400 * 1050 / 20)


def test_the_photo_shows_through_where_there_is_no_keypoint() -> None:
    image = np.full((300, 400, 3), 200, np.uint8)
    picture = pixels(draw(image, [(20, 20)], [1.0]))
    np.testing.assert_allclose(picture[place(image, 300, 200)], 0.85 * 200, atol=2)


@pytest.mark.parametrize("size", [(1, 1), (15, 4000), (4000, 15)])
def test_odd_sizes_and_no_keypoints(size: tuple[int, int]) -> None:
    figure = draw(np.zeros((*size, 3), np.uint8), [], [])
    assert "no keypoints" in texts(figure)
    assert pixels(figure).shape[0] >= 200
    assert pixels(draw(np.zeros((*size, 3), np.uint8), [(0, 0)], [0.5])).shape[1] < 1700


def test_a_long_name_keeps_its_end() -> None:
    figure = Figure()
    image = np.zeros((300, 400, 3), np.uint8)
    name = "a-very-long-folder/" * 20 + "photo0001"
    draw_keypoints(figure, image, np.zeros((0, 2), np.float32), np.zeros(0, np.float32), name)
    title = texts(figure)[0]
    assert title.startswith("…")
    assert title.endswith("photo0001")
    assert len(title) < 140
