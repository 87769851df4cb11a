"""Photometric augmentation: ranges, determinism, and blur and JPEG against scipy and Pillow."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import correlate

from disk.training.augment import _Draws, _kernels, _tone, augment, blur, jpeg


def picture(height: int = 64, width: int = 80, seed: int = 0) -> torch.Tensor:
    """Smooth colours with some texture."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (8, 10, 3), dtype=np.uint8))
    large = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float32)
    noisy = (large + generator.normal(0, 6, large.shape)).clip(0, 255)
    return torch.from_numpy(noisy.round().astype(np.float32) / 255).permute(2, 0, 1)


def changed(image: torch.Tensor, seed: int) -> torch.Tensor:
    """An image or a set of images, changed by one generator."""
    return augment(image[None], [torch.Generator().manual_seed(seed)])[0]


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(np.corrcoef(a.mean(0).flatten(), b.mean(0).flatten())[0, 1])


def test_keeps_shape_and_range_and_the_scene() -> None:
    image = picture()
    results = [changed(image, seed) for seed in range(60)]
    for result in results:
        assert result.shape == image.shape
        assert result.dtype == image.dtype
        assert torch.isfinite(result).all()
        assert result.min() >= 0
        assert result.max() <= 1
    assert np.median([correlation(image, result) for result in results]) > 0.9


def test_same_generator_same_result() -> None:
    image = picture()
    results = [changed(image, seed) for seed in range(20)]
    assert all(torch.equal(changed(image, seed), result) for seed, result in enumerate(results))
    assert any(not torch.equal(a, b) for a, b in itertools.combinations(results, 2))


def test_images_of_a_batch_differ() -> None:
    results = changed(picture()[None].repeat(8, 1, 1, 1), 0)
    others = [result for result in results if not torch.equal(result, picture())]
    assert len({result.sum().item() for result in others}) == len(others) > 1


def test_the_original_is_untouched_and_two_in_five_images_are_not_changed() -> None:
    image = picture()
    copy = image.clone()
    changes = [float((changed(image, seed) - image).abs().mean()) for seed in range(100)]
    assert torch.equal(image, copy)
    assert 25 < changes.count(0.0) < 55
    assert max(changes) > 0.2


def test_covers_a_dark_flat_noisy_photograph() -> None:
    """Some results are changed as much as by gamma 2.2, half the contrast or noise of 0.03; some by all three."""
    image = picture()
    results = torch.stack([changed(image, seed) for seed in range(200)])
    means, spreads = results.mean((1, 2, 3)), results.std((1, 2, 3))
    dark = image**2.2
    assert means.min() < dark.mean()
    assert means.max() > image.mean() + 0.15
    assert spreads.min() < image.std() * 0.5
    # noise: differences between neighbours along a row, beyond those of the image
    rough = (results[..., 1:] - results[..., :-1]).std((1, 2, 3)) / spreads
    smooth = (image[..., 1:] - image[..., :-1]).std() / image.std()
    assert rough.max() > 1.5 * smooth
    dim = (means < (image**1.5).mean()) & (spreads < 0.8 * image.std()) & (rough > 1.2 * smooth)
    assert 6 <= dim.sum() <= 40
    grey = (results.amax(1) - results.amin(1)).amax((1, 2))
    assert 0 < (grey < 0.1).sum() < 60


@pytest.mark.parametrize("size", [3, 9])
def test_blur_against_scipy(size: int) -> None:
    images = torch.stack([picture(20, 30, seed) for seed in range(3)])
    kernels = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))
    found = blur(images, kernels)
    for image, kernel, result in zip(images, kernels, found, strict=True):
        for channel in range(3):
            expected = correlate(image[channel].double().numpy(), kernel.double().numpy(), mode="nearest")
            np.testing.assert_allclose(result[channel].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("quality", [15, 50, 85])
@pytest.mark.parametrize("shape", [(64, 80), (37, 51)])
def test_jpeg_against_pillow(quality: int, shape: tuple[int, int]) -> None:
    image = picture(*shape)
    file = io.BytesIO()
    pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=2)
    expected = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1).float() / 255
    found = jpeg(image[None], torch.tensor([float(quality)]))[0]
    lost = (expected - image).abs().mean()
    # libjpeg rounds to integers and pads differently, far less than the loss by compression
    assert (found - expected).abs().mean() < 0.25 * lost + 0.5 / 255


def test_jpeg_of_each_image_has_its_own_quality() -> None:
    image = picture()[None].repeat(2, 1, 1, 1)
    coarse, fine = jpeg(image, torch.tensor([10.0, 95.0])) - image
    assert coarse.abs().mean() > 3 * fine.abs().mean()


def many(image: torch.Tensor, count: int = 120) -> torch.Tensor:
    """The image as changed by many generators; two in five are unchanged."""
    return torch.stack([changed(image, seed) for seed in range(count)])


def test_a_tuple_does_not_depend_on_the_others() -> None:
    """Bit for bit except for the blur, which may sum in another order."""
    images = torch.stack([picture(seed=i) for i in range(6)]).view(3, 2, 3, 64, 80)
    together = augment(images, [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)])
    for number, seed in enumerate((5, 6, 7)):
        torch.testing.assert_close(together[number], changed(images[number], seed), atol=1e-4, rtol=0)


def test_shadows_darken_a_part_of_the_image() -> None:
    """Nothing else darkens one part of a uniform surface more than another."""
    coarse = torch.nn.functional.avg_pool2d(many(torch.full((3, 64, 96), 0.6)), 16)
    uneven = coarse.mean(1).flatten(1).std(1) > 0.03
    assert 8 <= uneven.sum() <= 40  # two in five of three in five, some of them outside the image


def test_blur_widens_edges() -> None:
    """An edge between JPEG blocks, which JPEG alone would leave sharp."""
    image = torch.full((3, 64, 64), 0.3)
    image[:, :, 32:] = 0.7
    steps = many(image).mean((1, 2)).diff(dim=1).abs()[:, 26:37]
    at_the_edge = steps[:, 5] / steps.sum(1)
    assert 10 <= (at_the_edge < 0.7).sum() <= 45


def test_jpeg_leaves_blocks() -> None:
    """Neighbours across the border of a block of 8 pixels differ more than others."""
    steps = many(picture(64, 64)).diff(dim=3).abs().mean((1, 2))
    border = torch.arange(63) % 8 == 7
    blocky = steps[:, border].mean(1) / steps[:, ~border].mean(1)
    plain = picture(64, 64).diff(dim=2).abs().mean((0, 1))
    assert 8 <= (blocky > 1.15 * plain[border].mean() / plain[~border].mean()).sum() <= 45


def test_white_balance_colours_grey() -> None:
    means = many(torch.full((3, 32, 32), 0.5)).mean((2, 3))
    coloured = (means.amax(1) - means.amin(1)) / means.mean(1) > 0.06
    assert 15 <= coloured.sum() <= 70


def test_gamma_brightens_and_darkens() -> None:
    """The midpoint of two greys changes only by gamma: it rises for gamma below 1 and falls above 1."""
    levels = torch.tensor([0.35, 0.5, 0.65]).expand(300, 3, 1, 3)
    draw = _Draws(300, [torch.Generator().manual_seed(0)], torch.device("cpu"))
    low, middle, high = _tone(draw, levels, torch.zeros(300, dtype=torch.bool)).mean(1)[:, 0].unbind(1)
    unclipped = (low > 0.01) & (high < 0.99)
    place = ((middle - low) / (high - low))[unclipped]
    assert (place > 0.52).sum() > 40
    assert (place < 0.48).sum() > 40
    assert ((place - 0.5).abs() < 1e-3).sum() > 60  # half of them have a gamma


def test_motion_blurs_along_one_direction_and_defocus_along_all() -> None:
    draw = _Draws(400, [torch.Generator().manual_seed(0)], torch.device("cpu"))
    kernels = _kernels(draw)
    n = torch.arange(9.0) - 4
    yy, xx, xy = (
        torch.einsum("nij,ij->n", kernels, weight)
        for weight in (n[:, None] ** 2 * torch.ones(9), n**2 * torch.ones(9, 1), n[:, None] * n)
    )
    small, large = torch.linalg.eigvalsh(torch.stack([yy, xy, xy, xx], -1).view(-1, 2, 2)).unbind(1)
    lines, angles = (large > 2 * small), 0.5 * torch.atan2(2 * xy, xx - yy)
    assert 100 < lines.sum() < 200  # two in five
    assert (angles[lines] > 0).float().mean() == pytest.approx(0.5, abs=0.15)
    assert (large < 1.1 * small).sum() > 200
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(400))
