"""The images under test, and their features in pixels of the stored image."""

import numpy as np
import pytest
import torch
from evaluation_world import spots
from PIL import Image, ImageOps

from disk.evaluation.ground_truth import View
from disk.evaluation.views import degrade, describe, read_view
from disk.features import Features
from disk.images.reading import Upright


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("tag", [1, 6, 7])
def test_features_of_a_rotated_image_are_mapped_back_to_the_stored_one(tmp_path, turns, tag):
    """Quarter turns in the ground truth apply to the stored image and replace its EXIF orientation."""
    image = np.zeros((30, 50, 3), np.uint8)
    image[7, 41] = image[20, 3] = [255, 0, 0]
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    upright = read_view(View(tmp_path / "a.png", "a", turns))
    expected = np.rot90(image, turns) if turns else ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(upright.pixels, expected)
    found = describe(upright, spots, 10, 0)
    assert sorted(map(tuple, found.keypoints.tolist())) == [(3, 20), (41, 7)]


def test_features_of_a_shrunk_image_are_mapped_back_by_the_half_pixel_rule():
    def middle(image: np.ndarray, n: int) -> Features:
        assert image.shape == (20, 40, 3)
        return Features(torch.tensor([[19.5, 9.5], [0.0, 0.0]]), torch.ones(2, 1), torch.ones(2))

    found = describe(Upright(np.zeros((40, 80, 3), np.uint8), 1), middle, 10, 40)
    assert found.keypoints.tolist() == [[39.5, 19.5], [0.5, 0.5]]


def test_degraded_images_are_darker_flatter_and_always_the_same():
    image = np.tile(np.linspace(0, 255, 256).astype(np.uint8)[None, :, None], (200, 1, 3))
    degraded = degrade(image, seed=0)
    curve = degraded.mean(axis=(0, 2)) / 255
    power = (np.arange(256) / 255) ** 2.2
    expected = power.mean() + 0.5 * (power - power.mean())
    np.testing.assert_allclose(curve, expected, atol=0.006)
    assert degraded.std(axis=0).mean() / 255 == pytest.approx(0.03, rel=0.05)
    np.testing.assert_array_equal(degraded, degrade(image, seed=0))
    assert (degraded != degrade(image, seed=1)).any()


@pytest.mark.parametrize(
    ("value", "noise", "expected"),
    [(0, 0.0, 0), (255, 0.0, 255), (200, 0.0, 149), (0, -1.0, 0), (255, 1.0, 255), (255, -0.5, 128), (0, 0.5, 128)],
)
def test_a_degraded_grey_by_hand(value, noise, expected, monkeypatch):
    """The mean of a uniform grey is that grey: 255 (200 / 255)^2.2 = 149.4; noise is relative to white."""

    class Noise:
        def normal(self, mean: float, sigma: float, shape: tuple[int, ...]) -> np.ndarray:
            assert (mean, sigma, shape) == (0, 0.03, (4, 5, 3))
            return np.full(shape, noise)

    monkeypatch.setattr("disk.evaluation.views.np.random.default_rng", lambda seed: Noise())
    degraded = degrade(np.full((4, 5, 3), value, np.uint8), seed=0)
    assert degraded.dtype == np.uint8
    assert (degraded == expected).all()
