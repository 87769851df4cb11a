from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from disk.images.inputs import as_pixels
from disk.images.orientation import is_orientation, to_stored, to_upright, turned
from disk.images.reading import image_size, orientation_of, read_image, read_upright
from disk.images.resizing import Placement, place

ALL = range(1, 9)


def tagged(orientation: object) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def ramp(height: int, width: int) -> np.ndarray:
    """An image whose red is 4 x and green is 6 y, so that colours show the position of a pixel."""
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * x, 6 * y, 0 * x], 2).astype(np.uint8)


@pytest.mark.parametrize("orientation", ALL)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
def test_files_are_read_upright_as_viewers_show_them_or_as_stored(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    stored, path = ramp(31, 47), tmp_path / f"a.{suffix}"
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(stored).save(path, exif=tagged(orientation), **options)
    image = read_upright(path)
    with Image.open(path) as file:
        shown = np.asarray(ImageOps.exif_transpose(file))  # Pillow's notion of upright
    np.testing.assert_array_equal(image.pixels, shown)
    assert image.orientation == orientation
    assert image.stored_size == image_size(path) == (47, 31)
    np.testing.assert_allclose(read_image(path).astype(int), stored, atol=6 if suffix == "jpg" else 0)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg", "tiff_deflate"])
def test_rotated_tiff_of_every_compression(tmp_path: Path, compression: str) -> None:
    stored, path = ramp(31, 47), tmp_path / "a.tif"
    quality = {"quality": 100} if compression == "jpeg" else {}
    Image.fromarray(stored).save(path, exif=tagged(6), compression=compression, **quality)
    image = read_upright(path)
    assert image.orientation == 6
    np.testing.assert_allclose(image.pixels.astype(int), np.rot90(stored, -1), atol=8)
    assert image_size(path) == (47, 31)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_invalid_orientation_counts_as_stored(tmp_path: Path, value: int) -> None:
    Image.fromarray(ramp(5, 9)).save(tmp_path / "a.png", exif=tagged(value))
    assert read_upright(tmp_path / "a.png").orientation == 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_counts_as_stored(tmp_path: Path) -> None:
    Image.fromarray(ramp(5, 9)).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\xff\xffgarbage")
    assert read_upright(tmp_path / "a.jpg").orientation == 1
    with Image.open(tmp_path / "a.jpg") as image:
        image.info["exif"] = b"neither"
        assert orientation_of(image) == 1
    assert not is_orientation((6,))
    assert not is_orientation(None)


@pytest.mark.parametrize("orientation", ALL)
def test_rotations_compose(orientation: int) -> None:
    stored = ramp(3, 4)
    for turns in range(-1, 5):
        expected = np.rot90(to_upright(stored, orientation), turns)
        np.testing.assert_array_equal(to_upright(stored, turned(orientation, turns)), expected)
    np.testing.assert_array_equal(to_stored(to_upright(stored, orientation), orientation), stored)


@pytest.mark.parametrize("orientation", ALL)
def test_every_pixel_maps_back_to_the_stored_one(orientation: int) -> None:
    stored = ramp(23, 31)
    canvas, placement = place(to_upright(stored, orientation), orientation=orientation)
    y, x = (axis.ravel() for axis in np.mgrid[: canvas.shape[0], : canvas.shape[1]])
    points = placement.to_original(torch.from_numpy(np.stack([x, y], 1)).float()).numpy()
    # the colour of a pixel is 4 and 6 times its stored position
    np.testing.assert_array_equal(canvas[y, x, :2], points * [4, 6])
    assert placement.original_size == (31, 23)


@pytest.mark.parametrize("orientation", ALL)
def test_a_resized_pixel_maps_back_by_the_half_pixel_rule(orientation: int) -> None:
    stored = ramp(41, 61)
    canvas, placement = place(to_upright(stored, orientation), max_size=37, orientation=orientation)
    y, x = (axis.ravel() for axis in np.mgrid[4 : canvas.shape[0] - 4, 4 : canvas.shape[1] - 4])
    points = placement.to_original(torch.from_numpy(np.stack([x, y], 1)).float()).numpy()
    # a plane stays a plane under antialiasing; 8 bits give the position to half a level: an eighth of a pixel in x
    np.testing.assert_allclose(canvas[y, x, :2], points * [4, 6], atol=0.75)


@given(
    orientation=st.sampled_from(ALL), width=st.integers(1, 3000), height=st.integers(1, 3000),
    box=st.tuples(st.integers(1, 900), st.integers(1, 900)) | st.none(), max_size=st.integers(0, 500),
    point=st.tuples(st.floats(-0.5, 3000), st.floats(-0.5, 3000)),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_matrix_and_points_are_inverse(
    orientation: int, width: int, height: int, box: tuple[int, int] | None, max_size: int, point: tuple[float, float]
) -> None:
    columns, rows = (width, height) if orientation <= 4 else (height, width)
    scale = min(box[0] / rows, box[1] / columns) if box else min(1.0, max_size / max(rows, columns)) if max_size else 1
    new_columns, new_rows = max(1, round(columns * scale)), max(1, round(rows * scale))
    placement = Placement(new_columns, new_rows, new_columns / columns, new_rows / rows, orientation)
    assert placement.original_size == (width, height)
    on_canvas = placement.from_original() @ [*point, 1]
    back = placement.to_original(torch.from_numpy(on_canvas[None, :2]))
    np.testing.assert_allclose(back[0], point, rtol=1e-9, atol=1e-6)
    # corners map to corners: no keypoint on the used part of the canvas is mapped outside its image
    corners = np.array([[-0.5, -0.5, 1], [width - 0.5, height - 0.5, 1]]) @ placement.from_original().T
    np.testing.assert_allclose(corners.min(0)[:2], [-0.5, -0.5], atol=1e-6)
    np.testing.assert_allclose(corners.max(0)[:2], [new_columns - 0.5, new_rows - 0.5], atol=1e-6)


def test_subpixel_points_keep_every_digit_without_a_resize() -> None:
    points = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) * 1000
    assert torch.equal(Placement(1000, 1000, 1.0, 1.0).to_original(points), points)


@pytest.mark.parametrize("orientation", ALL)
@pytest.mark.parametrize("mode", ["L", "I;16", "RGB", "RGBA", "CMYK", "P"])
def test_a_rotated_tiff_of_any_mode_is_read_like_a_png(tmp_path: Path, orientation: int, mode: str) -> None:
    # Pillow memory-maps some of these with the wrong size
    grey = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(tmp_path / "a.tif", exif=tagged(orientation))
    image.convert("RGB" if mode == "CMYK" else image.mode).save(tmp_path / "a.png", exif=tagged(orientation))
    tiff, png = read_upright(tmp_path / "a.tif"), read_upright(tmp_path / "a.png")
    assert tiff.orientation == png.orientation == orientation
    np.testing.assert_array_equal(tiff.pixels, png.pixels)
    with Image.open(tmp_path / "a.tif") as opened:
        pixels = as_pixels(opened)[0][0].pixels
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), png.pixels)
