"""An image passed in Python becomes what the commands would read from its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from disk.errors import ImageError
from disk.images.inputs import as_pixels
from disk.images.reading import read_upright

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY, DEEP = RGB[..., 0], np.random.default_rng(1).integers(0, 65536, (6, 8), dtype=np.uint16)


def rows(image: Any) -> np.ndarray:
    """The only image, as (H, W, 3)."""
    pixels, single = as_pixels(image)
    assert single
    assert len(pixels) == 1
    return pixels[0].pixels.permute(1, 2, 0).numpy()


def pil_images() -> dict[str, Image.Image]:
    colour, grey = Image.fromarray(RGB), Image.fromarray(GREY)
    alpha = Image.fromarray(np.dstack([RGB, GREY]))
    palette = colour.quantize(16)
    transparent = palette.copy()
    transparent.info["transparency"] = 3
    return {
        "1": grey.convert("1"), "L": grey, "P": palette, "P transparent": transparent, "RGB": colour, "RGBA": alpha,
        "LA": alpha.convert("LA"), "CMYK": colour.convert("CMYK"), "YCbCr": colour.convert("YCbCr"),
        "I;16": Image.fromarray(DEEP),
    }  # fmt: skip


@pytest.mark.parametrize("mode", pil_images())
def test_pil_images_arrays_and_files_read_the_same(tmp_path: Path, mode: str) -> None:
    if mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < 12:
        pytest.skip("Pillow before 12 does not read the YCbCr TIFF it writes")
    image = pil_images()[mode]
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    image.save(path)
    stored = read_upright(path).pixels
    assert rows(image).dtype == np.uint8
    np.testing.assert_array_equal(rows(image), stored)
    np.testing.assert_array_equal(rows(path), stored)
    np.testing.assert_array_equal(rows(str(path)), stored)
    if mode in ("1", "L", "RGB", "RGBA", "I;16"):
        np.testing.assert_array_equal(rows(np.asarray(image)), stored)


@pytest.mark.parametrize("mode", ["HSV", "LAB", "PA", "La", "RGBa", "RGBX", "I"])
def test_other_modes_of_pillow(mode: str) -> None:
    through = {"PA": "LA", "La": "LA", "RGBa": "RGBA"}.get(mode, "RGB")
    if mode == "I":
        image, expected = Image.fromarray(DEEP.astype(np.int32)), rows(DEEP)
    else:
        original = Image.fromarray(np.dstack([RGB, np.full((6, 8), 255, np.uint8)])).convert(through)
        image, expected = original.convert(mode), np.asarray(original.convert("RGB"))
    assert image.mode == mode
    np.testing.assert_allclose(rows(image).astype(int), expected, atol={"HSV": 4, "LAB": 24}.get(mode, 1))


def test_every_layout_of_one_image_is_the_same_pixels() -> None:
    colour = [RGB, torch.from_numpy(RGB).permute(2, 0, 1), np.asfortranarray(RGB), RGB[::-1][::-1]]
    for image in colour:
        np.testing.assert_array_equal(rows(image), RGB)
    grey = [GREY, GREY[..., None], torch.from_numpy(GREY.copy())[None], torch.from_numpy(GREY.copy())]
    for image in grey:
        np.testing.assert_array_equal(rows(image), np.stack([GREY] * 3, 2))
    opaque = np.dstack([RGB, np.full((6, 8), 255, np.uint8)])
    np.testing.assert_array_equal(rows(opaque), RGB)
    np.testing.assert_array_equal(rows(GREY > 99), np.stack([255 * (GREY > 99)] * 3, 2))
    np.testing.assert_array_equal(rows(torch.from_numpy(GREY > 99)), np.stack([255 * (GREY > 99)] * 3, 2))


def test_sixteen_bits() -> None:
    np.testing.assert_array_equal(rows(DEEP)[..., 0], np.rint(DEEP / 257))
    np.testing.assert_array_equal(rows(torch.from_numpy(DEEP))[..., 1], np.rint(DEEP / 257))
    np.testing.assert_array_equal(rows(DEEP.astype(">u2"))[..., 1], np.rint(DEEP / 257))
    np.testing.assert_array_equal(rows(np.dstack([DEEP] * 3))[..., 0], DEEP >> 8)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", ">f4"])
def test_floats_are_kept_as_they_are(kind: str) -> None:
    image = (RGB / 255).astype(kind)
    pixels, _ = as_pixels(image)
    assert pixels[0].pixels.is_floating_point()
    np.testing.assert_array_equal(pixels[0].pixels.permute(1, 2, 0).numpy(), image)
    assert rows(image[..., 0]).shape == (6, 8, 3)
    tensor = torch.from_numpy(image.astype(kind.replace(">f4", "float32"))).permute(2, 0, 1)
    assert torch.equal(as_pixels(tensor)[0][0].pixels, tensor)
    with_alpha = np.dstack([image.astype(np.float32), np.full((6, 8), 0.5, np.float32)])
    np.testing.assert_allclose(rows(with_alpha), image.astype(np.float32) / 2)


@pytest.mark.parametrize("value", [-0.2, 0.0, 1.0, 1.25])
def test_the_overshoot_of_interpolation_is_accepted(value: float) -> None:
    assert rows(np.full((4, 4, 3), value, np.float32))[0, 0, 0] == np.float32(value)


def test_batches_and_lists() -> None:
    batch = np.stack([RGB, RGB[::-1]])
    for images in (batch, torch.from_numpy(batch).permute(0, 3, 1, 2), [RGB, Image.fromarray(RGB[::-1])], (*batch,)):
        pixels, single = as_pixels(images)
        assert not single
        assert [tuple(one.pixels.shape) for one in pixels] == [(3, 6, 8)] * 2
        np.testing.assert_array_equal(pixels[1].pixels.permute(1, 2, 0), RGB[::-1])
    pixels, single = as_pixels([RGB, torch.zeros(3, 5, 9), GREY[:2]])  # sizes may differ
    assert [tuple(one.pixels.shape[1:]) for one in pixels] == [(6, 8), (5, 9), (2, 8)]
    assert as_pixels([]) == ([], False)
    assert as_pixels(torch.zeros(1, 1, 4, 5))[1] is False


@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_are_in_pixels_of_the_image_that_was_passed(tmp_path: Path, orientation: int) -> None:
    stored = np.zeros((20, 30, 3), np.uint8)
    stored[4, 11] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        for given in (image, tmp_path / "a.png"):
            (pixels,), _ = as_pixels(given)
            assert pixels.orientation == orientation
            y, x = divmod(int(pixels.pixels[0].float().argmax()), pixels.pixels.shape[2])
            found = pixels.placement.to_original(torch.tensor([[x, y]], dtype=torch.float32))
            assert found.tolist() == [[11, 4]]
            assert pixels.placement.original_size == (30, 20)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((3, 20, 30), np.uint8), r"array uint8 \(3, 20, 30\).*channels come first"),
        (torch.zeros(20, 30, 3), r"tensor float32 \(20, 30, 3\).*channels come last"),
        (np.zeros((20, 30, 2), np.uint8), r"\(20, 30, 2\)"),
        (np.zeros((20, 30, 5), np.float32), r"\(20, 30, 5\)"),
        (torch.zeros(4, 20, 30), r"\(4, 20, 30\)"),
        (np.zeros((2, 3, 20, 30), np.uint8), "channels come first"),
        (np.zeros(7, np.uint8), r"\(7,\)"),
        (np.zeros((1, 2, 3, 4, 3), np.uint8), r"\(1, 2, 3, 4, 3\)"),
        (np.zeros((0, 30, 3), np.uint8), "empty"),
        (torch.zeros(0, 3, 4, 4), "empty"),
        (Image.new("RGB", (0, 5)), "empty"),
        (RGB.astype(np.int64), "int64"),
        (RGB.astype(np.int8), "int8"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), "int32"),
        (RGB.astype(complex), "complex"),
        (RGB.astype(str), "array"),
        (RGB.astype(np.float32), r"from 0 to 24\d, not from 0 to 1; divide by 255"),
        (torch.from_numpy(RGB).permute(2, 0, 1).half(), "divide by 255"),
        (RGB / 127.5 - 1, "not from 0 to 1: pass"),
        (np.full((4, 4, 4), np.nan), "nan"),
        (np.full((4, 4, 3), np.nan, np.float32), "nan"),
        (np.where(np.eye(4) > 0, np.inf, 0), "inf"),
        (torch.full((2, 3, 4, 4), -torch.inf), "inf"),
        (Image.fromarray(RGB[..., 0].astype(np.float32)), "float32 pixels"),
        (None, "NoneType"),
        (7, "int '7'"),
        (b"a.jpg", "bytes"),
        ([[GREY]], "a list holds single images"),
        ([np.stack([RGB, RGB])], "a list holds single images"),
        ("nowhere.jpg", "no file nowhere.jpg"),
    ],
)  # fmt: skip
def test_unusable_inputs_are_one_clear_error(image: Any, says: str) -> None:
    with pytest.raises(ImageError, match=says) as error:
        as_pixels(image)
    assert "\n" not in str(error.value)


def test_pillow_images_that_break_while_they_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with Image.open(path) as image, pytest.raises(ImageError, match=r"a\.png is damaged"):
        as_pixels(image)
