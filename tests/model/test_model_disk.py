"""`DISK.detect` on users' inputs: the keypoints that the commands find, in pixels of the given image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from disk.errors import DiskError, ImageError
from disk.model.checkpoints import load
from disk.model.disk import DISK
from disk.model.options import DetectionOptions
from disk.pipeline.detect import DetectOptions, detect
from disk.storage.artifacts import read_features
from textured import textured_photo


@pytest.fixture(scope="module")
def model() -> DISK:
    return load("default", "cpu", backend="torch")


def same(features, expected, atol=1e-4):
    torch.testing.assert_close(features.keypoints, expected.keypoints, atol=atol, rtol=0)
    torch.testing.assert_close(features.descriptors, expected.descriptors, atol=1e-4, rtol=0)
    assert features.image_size == expected.image_size


def test_the_defaults_equal_those_of_the_commands(model, photo_folder: Path, tmp_path: Path) -> None:
    """Shrunk to 1600 pixels, sub-pixel, at most 4,096: the result of `disk detect` for the same files."""
    for name, size in [("large.png", (1700, 64)), ("turned.jpg", (64, 96))]:
        photo = Image.fromarray(textured_photo(size[1], size[0], 5))
        exif = Image.Exif()
        exif[0x0112] = 6
        photo.save(photo_folder / name, quality=95, exif=exif if "turned" in name else b"")
    detect(tmp_path, photo_folder, DetectOptions(backend="torch", device="cpu"))
    with read_features(tmp_path) as store:
        for name in store:
            path = photo_folder / store.image_path(name)
            for image in (path, str(path), Image.open(path)):
                features = model.detect(image)
                same(features, store[name], atol=1e-3)
                assert features.image_size == store.image_size(name)
    assert DetectionOptions().budget == 4096


def test_one_image_in_many_forms(model) -> None:
    grey = textured_photo(48, 64).mean(2).astype(np.uint8)
    rgb = np.repeat(grey[:, :, None], 3, 2)
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    expected = model.detect(rgb, n=50)
    forms = [grey, grey[:, :, None], Image.fromarray(grey), Image.fromarray(rgb), tensor, tensor / 255, rgb / 255.0]
    forms += [(tensor / 255).double(), grey / np.float32(255)]
    for form in forms:
        same(model.detect(form, n=50), expected, atol=2e-3)


def test_lists_and_batches(model) -> None:
    photos = [textured_photo(48, 64, seed) for seed in range(3)] + [textured_photo(40, 40)]
    expected = [model.detect(photo, n=30) for photo in photos]
    for features, one in zip(model.detect(photos, n=30), expected, strict=True):
        same(features, one)
    batch = np.stack(photos[:3])
    for form in (batch, torch.from_numpy(batch).permute(0, 3, 1, 2), list(map(Image.fromarray, photos[:3]))):
        for features, one in zip(model.detect(form, n=30), expected, strict=False):
            same(features, one)
    assert model.detect([]) == []
    assert isinstance(model.detect(batch[:1]), list)


def test_options_by_record_and_by_name(model) -> None:
    photo = textured_photo(64, 96)
    whole = model.detect(photo, DetectionOptions(n=40, subpixel=False))
    assert torch.equal(whole.keypoints, whole.keypoints.round())
    same(model.detect(photo, n=40, subpixel=False), whole)
    same(model.detect(photo, DetectionOptions(subpixel=False), n=40), whole)
    assert len(model.detect(photo, n=7)) == 7
    assert len(model.detect(photo, n=None)) > 40
    for wrong in ({"n": 0}, {"n": -1}, {"window": 4}, {"max_size": -1}):
        with pytest.raises(DiskError, match=next(iter(wrong))):
            model.detect(photo, **wrong)
    with pytest.raises(DiskError, match="detect has no option m"):
        model.detect(photo, m=3)


@pytest.mark.parametrize("options", [{"max_size": 60}, {"height": 50, "width": 200}, {"height": 40}])
def test_floats_are_resized_like_bytes(model, options) -> None:
    photo = textured_photo(72, 100)
    bytes_, floats = (model.detect(image, n=40, **options) for image in (photo, photo / 255.0))
    # bytes are rounded after resizing, floats are not
    assert (torch.cdist(bytes_.keypoints, floats.keypoints).amin(1) < 1).float().mean() > 0.9
    assert bytes_.image_size == floats.image_size == (100, 72)
    assert bytes_.keypoints.max() > 60


def test_masks(model) -> None:
    photo = textured_photo(64, 96)
    mask = np.zeros((64, 96), bool)
    mask[:, 50:] = True
    options = DetectionOptions(n=40, subpixel=False)
    masked = model.detect(photo, options, masks=mask)
    assert len(masked) == 40
    assert masked.keypoints[:, 0].min() >= 50
    for form in (
        torch.from_numpy(mask),
        mask.astype(np.uint8),
        Image.fromarray(mask),
        np.repeat(mask[..., None], 3, 2),
    ):
        same(model.detect(photo, options, masks=form), masked)
    one, other = model.detect([photo, photo], options, masks=[mask, None])
    same(one, masked)
    assert other.keypoints[:, 0].min() < 50
    with pytest.raises(ImageError, match="a mask is 96 x 63, its image 96 x 64"):
        model.detect(photo, masks=mask[1:])
    with pytest.raises(ImageError, match="2 images but 1 mask;"):
        model.detect([photo, photo], masks=[mask])


def test_a_mask_of_a_rotated_photo_applies_to_its_stored_pixels(model, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(textured_photo(64, 96)).save(tmp_path / "a.png", exif=exif)
    mask = np.zeros((64, 96), bool)
    mask[:20, 30:] = True
    x, y = model.detect(tmp_path / "a.png", n=None, subpixel=False, masks=mask).keypoints.unbind(1)
    assert len(x) > 5
    assert x.min() >= 30
    assert y.max() < 20


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 64, 64), np.uint8), np.zeros((0, 64, 3), np.uint8), np.full((64, 64, 3), np.nan), 3, None,
        np.zeros((64, 64), np.int32), torch.zeros(2, 64, 64), torch.full((3, 64, 64), 200.0), "no/such/file.jpg",
    ],
)  # fmt: skip
def test_inputs_that_are_not_images_are_refused(model, wrong) -> None:
    with pytest.raises(ImageError):
        model.detect(wrong)


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (15, 17)])
def test_small_images(model, size) -> None:
    features = model.detect(textured_photo(*size))
    assert features.keypoints.shape == (len(features), 2)
    assert (features.keypoints >= 0).all()
    assert (features.keypoints <= torch.tensor([size[1] - 1, size[0] - 1])).all()
