"""Texture lookup compared with scipy, exact averages and the singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import map_coordinates

from disk.datasets.synthesis.textures import LEVELS, PhotoStore, _footprint, build_store, lookup
from disk.errors import DatasetError

FRAME = 8  # cropped on all sides


def store_of(inside: np.ndarray) -> PhotoStore:
    """A store whose only photo has `inside` as its texels; its sides are multiples of 32."""
    return build_store([np.pad(inside, ((FRAME, FRAME), (FRAME, FRAME), (0, 0)), mode="edge")])


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def look(store: PhotoStore, x: torch.Tensor, y: torch.Tensor, jacobian: list[float]) -> np.ndarray:
    photo = torch.zeros(len(x), dtype=torch.int32)
    columns = torch.tensor(jacobian)[:, None].expand(4, len(x))
    return lookup(store, photo, torch.stack([x, y]).float(), columns).numpy()


def test_interpolates_and_mirrors_like_scipy() -> None:
    photo = noise(128, 160)
    x, y = (torch.rand(2, 2000, generator=torch.Generator().manual_seed(0)) - 0.4) * 700
    found = look(store_of(photo), x, y, [0.0, 0, 0, 0])
    for channel in range(3):
        values = photo[..., channel] / 255.0
        expected = map_coordinates(values, [y.double().numpy(), x.double().numpy()], order=1, mode="reflect")
        np.testing.assert_allclose(found[channel], expected, atol=2e-4)


def test_every_level_is_the_mean_of_the_area_it_covers() -> None:
    photo = noise(128, 128)
    store = store_of(photo)
    values = store.texels.numpy().view(np.uint8).reshape(-1, 4)[:, :3]
    for level in range(LEVELS):
        side = 128 >> level
        begin = int(store.offsets[0, level])
        block = 1 << level
        means = photo.reshape(side, block, side, block, 3).mean((1, 3))
        np.testing.assert_allclose(values[begin : begin + side * side].reshape(side, side, 3), means, atol=0.51)


@pytest.mark.parametrize("scale", [3.0, 5.0, 8.3, 21.0])
@pytest.mark.parametrize("angle", [0.0, 0.5])
def test_a_minified_checkerboard_is_grey(scale: float, angle: float) -> None:
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    store = store_of(board)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    pixel = torch.stack(torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="xy")).flatten(1)
    x, y = c * pixel[0] - s * pixel[1], s * pixel[0] + c * pixel[1]
    filtered = look(store, x, y, [c, -s, s, c])
    assert np.abs(filtered - 0.5).max() < 0.01
    # without the filter the same samples would show an alias pattern
    assert look(store, x, y, [0.0, 0, 0, 0]).std() > 0.1


def test_a_slanted_view_keeps_detail_along_its_short_side() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, np.arange(256) % 8 < 4] = 255
    store = store_of(stripes)
    x, y = torch.arange(100.0) + 60, torch.full((100,), 128.0)
    slanted = look(store, x, y, [1.0, 0, 0, 8])  # eight rows per pixel, but one column
    assert np.ptp(slanted) > 0.7
    assert np.ptp(look(store, x, y, [8.0, 0, 0, 8])) < 0.02


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, (2, 2), elements=st.floats(-20, 20)))
def test_footprint_is_the_ellipse_of_the_jacobian(matrix: np.ndarray) -> None:
    axis, side = _footprint(torch.from_numpy(matrix).reshape(4, 1))
    left, singular, _ = np.linalg.svd(matrix)
    assert float(side) == pytest.approx(max(singular[1], singular[0] / 2), rel=1e-3, abs=1e-5)
    if singular[0] - singular[1] > 0.1:  # otherwise the direction does not matter
        assert np.hypot(*axis[:, 0].numpy()) == pytest.approx(singular[0], abs=1e-6)
        across = np.array([-left[1, 0], left[0, 0]])
        assert abs(across @ axis[:, 0].numpy()) < 1e-4 * singular[0]


def test_places_are_in_textured_areas() -> None:
    photo = np.full((320, 320, 3), 128, np.uint8)
    photo[:, 192:] = noise(40, 16).repeat(8, 0).repeat(8, 1)
    places = store_of(photo).places[0]
    assert (places[:10, 0] > 160).all()


def test_unusable_photos() -> None:
    with pytest.raises(DatasetError, match="at least 128 px"):
        build_store([noise(100, 500)])
    with pytest.raises(DatasetError, match="uint8"):
        build_store([noise(200, 200)[..., 0]])
    with pytest.raises(DatasetError, match="at least 128 px"):
        build_store([])


def test_small_photos_are_skipped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert len(build_store([noise(100, 500), noise(200, 150)])) == 1
    assert "skipping 1 photo with" in caplog.text
