from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from disk.images.resizing import Placement, place, to_tensor


def ramp(height: int, width: int) -> np.ndarray:
    """A plane whose red rises by 1 per pixel to the right and green by 2 per pixel down."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, 2 * y, 0 * x], 2).astype(np.uint8)


@pytest.mark.parametrize("factor", [0.5, 0.37, 1.7])
def test_pixels_move_by_the_half_pixel_rule(factor: float) -> None:
    image = ramp(120, 240)
    placed, placement = (
        place(image, height=round(120 * factor), width=10_000)
        if factor > 1
        else place(image, max_size=round(240 * factor))
    )
    placed = placed[: placement.height, : placement.width]
    y, x = np.mgrid[8 : placement.height - 8, 8 : placement.width - 8]
    points = torch.from_numpy(np.stack([x.ravel(), y.ravel()], 1)).float()
    original = placement.to_original(points).numpy()
    found = placed[y.ravel(), x.ravel()]
    # a plane stays a plane, so colours show where a pixel came from; 8 bits give that to half a level
    np.testing.assert_allclose(found[:, 0], original[:, 0], atol=0.75)
    np.testing.assert_allclose(found[:, 1] / 2, original[:, 1], atol=0.4)


def test_shrinking_is_antialiased() -> None:
    y, x = np.mgrid[:100, :100]
    chequers = np.repeat(((x + y) % 2 * 255).astype(np.uint8)[:, :, None], 3, 2)
    placed, _ = place(chequers, max_size=29)
    assert np.abs(placed[3:-3, 3:-3].astype(float) - 127.5).max() < 8


@given(
    rows=st.integers(1, 300), columns=st.integers(1, 300), max_size=st.integers(0, 200),
    x=st.floats(-0.5, 400), y=st.floats(-0.5, 400),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_max_size_only_shrinks_and_maps_back(rows: int, columns: int, max_size: int, x: float, y: float) -> None:
    placed, placement = place(np.zeros((rows, columns, 3), np.uint8), max_size=max_size)
    height, width = placed.shape[:2]
    assert (placement.height, placement.width) == (height, width)
    if not max_size or max(rows, columns) <= max_size:
        assert (height, width) == (rows, columns)
    else:
        assert max(height, width) == max_size
        scale = max_size / max(rows, columns)
        assert abs(height - rows * scale) <= 1
        assert abs(width - columns * scale) <= 1
    points = torch.tensor([[x, y]], dtype=torch.float64)
    on_canvas = (points + 0.5) * torch.tensor([width / columns, height / rows]).double() - 0.5
    torch.testing.assert_close(placement.to_original(on_canvas), points)
    expected = [(x + 0.5) * width / columns - 0.5, (y + 0.5) * height / rows - 0.5, 1]
    np.testing.assert_allclose(placement.from_original() @ [x, y, 1], expected, rtol=1e-12, atol=1e-9)
    # the image's corners are those of the canvas part, so a keypoint never maps outside its image
    corners = torch.tensor([[-0.5, -0.5], [width - 0.5, height - 0.5]], dtype=torch.float64)
    torch.testing.assert_close(
        placement.to_original(corners), torch.tensor([[-0.5, -0.5], [columns - 0.5, rows - 0.5]], dtype=torch.float64)
    )


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 120), st.integers(1, 120))
@settings(max_examples=60, deadline=None)
def test_box_is_filled_with_zeros_right_and_below(rows: int, columns: int, height: int, width: int) -> None:
    placed, placement = place(np.full((rows, columns, 3), 255, np.uint8), max_size=7, height=height, width=width)
    assert placed.shape == (height, width, 3)
    assert placement.height == height or placement.width == width
    assert (placed[: placement.height, : placement.width] == 255).all()
    assert not placed[placement.height :].any()
    assert not placed[:, placement.width :].any()


def test_one_side_alone_keeps_the_aspect() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    assert place(image, height=50)[0].shape == (50, 100, 3)
    assert place(image, width=50)[0].shape == (25, 50, 3)
    assert place(image, height=150)[1] == Placement(300, 150, 1.5, 1.5)


def test_extreme_shapes() -> None:
    assert place(np.zeros((1, 1, 3), np.uint8), max_size=1600)[0].shape == (1, 1, 3)
    assert place(np.zeros((15, 4000, 3), np.uint8), max_size=100)[0].shape == (1, 100, 3)


def test_tensors() -> None:
    image = ramp(15, 17)
    tensor = to_tensor(image)
    assert tensor.shape == (3, 15, 17)
    np.testing.assert_allclose(tensor.numpy().transpose(1, 2, 0) * 255, image, atol=1e-4)
