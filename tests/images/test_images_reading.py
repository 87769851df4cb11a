from __future__ import annotations

import contextlib
import os
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from disk.errors import ImageError
from disk.images import reading
from disk.images.reading import image_size, one_large_at_a_time, read_image


def random_image(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "ppm"])
def test_lossless_formats_are_read_exactly(tmp_path: Path, suffix: str) -> None:
    pixels = random_image(5, 7, 3)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), pixels)
    assert image_size(tmp_path / f"a.{suffix}") == (7, 5)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "heic"])
def test_lossy_formats_are_read_closely(tmp_path: Path, suffix: str, photo: np.ndarray) -> None:
    if suffix == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    smooth = np.asarray(Image.fromarray(photo).resize((16, 12)).resize((128, 96), Image.Resampling.BICUBIC))
    Image.fromarray(smooth).save(tmp_path / f"a.{suffix}", quality=95)
    difference = np.abs(read_image(tmp_path / f"a.{suffix}").astype(int) - smooth)
    assert difference.mean() < 4


def test_grey_is_repeated(tmp_path: Path) -> None:
    grey = random_image(5, 7)
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.stack([grey] * 3, 2))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    deep = np.array([[0, 257, 65535, 32896, 128, 129]], np.uint16)
    Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
    expected = np.rint(deep / 257).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}")[..., 0], expected)


def test_sixteen_bit_colour_png(tmp_path: Path) -> None:
    deep = random_image(3, 4, 3, dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    (tmp_path / "a.png").write_bytes(png(4, 3, rows, depth=16, colour=2))
    assert np.abs(read_image(tmp_path / "a.png") - deep / 257).max() <= 1


def test_alpha_is_composited_on_black(tmp_path: Path) -> None:
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 128]]], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_image(tmp_path / "a.png")[0], [[200, 100, 50], [0, 0, 0], [100, 50, 25]], atol=1)
    Image.fromarray(rgba[..., [0, 3]], "LA").save(tmp_path / "b.png")
    np.testing.assert_allclose(read_image(tmp_path / "b.png")[0], [[200] * 3, [0] * 3, [100] * 3], atol=1)


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0], [[10, 20, 30], [40, 50, 60]])
    image.save(tmp_path / "b.png", transparency=1)
    np.testing.assert_array_equal(read_image(tmp_path / "b.png")[0], [[10, 20, 30], [0, 0, 0]])


def test_cmyk_white_and_ink(tmp_path: Path) -> None:
    inks = np.zeros((32, 32, 4), np.uint8)
    inks[:, 16:, 0] = 255  # cyan
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.tif")
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.jpg", quality=95)
    for name in ("a.tif", "a.jpg"):
        read = read_image(tmp_path / name)
        np.testing.assert_allclose(read[16, [4, 28]], [[255] * 3, [0, 255, 255]], atol=8)


def test_exif_rotation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a rotation by 90 degrees
    Image.fromarray(random_image(5, 9, 3)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (5, 9, 3)
    assert image_size(tmp_path / "a.jpg") == (9, 5)


def test_the_content_counts_not_the_extension(tmp_path: Path) -> None:
    pixels = random_image(5, 7, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), pixels)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(random_image(64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf"a\.{suffix}"):
        read_image(path)


def test_files_that_are_not_images(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name in ("text.jpg", "empty.jpg"):
        with pytest.raises(ImageError, match=rf"{name} is not an image"):
            read_image(tmp_path / name)
    with pytest.raises(ImageError, match="no file"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        image_size(tmp_path)


@pytest.mark.parametrize("side", [25_000, 60_000])
def test_decompression_bomb(tmp_path: Path, side: int, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side, b"\0" * 1000))
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match=r"bomb\.png would decode to more than 500 million pixels"):
            read(path)
    assert not recwarn.list


def test_floating_point_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="8 or 16 bits"):
        read_image(tmp_path / "a.tif")


def test_large_images_are_decoded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LARGE_PIXELS", 100)
    for name, side in (("large", 11), ("small", 10)):
        Image.new("RGB", (side, side)).save(tmp_path / f"{name}.png")
    with ThreadPoolExecutor(2) as pool, contextlib.ExitStack() as first:
        first.enter_context(one_large_at_a_time(tmp_path / "large.png"))
        entered = {name: threading.Event() for name in ("large", "small")}

        def enter(name: str) -> None:
            with one_large_at_a_time(tmp_path / f"{name}.png"):
                entered[name].set()

        waiting = [pool.submit(enter, name) for name in entered]
        assert entered["small"].wait(10)
        assert not entered["large"].wait(0.05)
        first.close()
        for future in waiting:
            future.result(10)
        assert entered["large"].is_set()


def test_files_of_several_pictures_log_that_the_first_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = random_image(20, 30, 3), random_image(20, 30, 3)[::-1].copy()
    options = {"save_all": True, "append_images": [Image.fromarray(second)]}
    for name in ("a.tif", "a.png", "a.webp"):
        Image.fromarray(first).save(tmp_path / name, **options, **({"lossless": True} if name == "a.webp" else {}))
    Image.fromarray(first).save(tmp_path / "stereo.jpg", format="MPO", quality=100, subsampling=0, **options)
    for name in ("a.tif", "a.png", "a.webp", "stereo.jpg"):
        caplog.clear()
        read = read_image(tmp_path / name)
        np.testing.assert_allclose(read.astype(int), first, atol=12 if name == "stereo.jpg" else 0)
        assert f"{name} holds 2 pictures; the first is used" in caplog.text
    # phones store a gain map or a preview behind the photo
    preview = Image.fromarray(second).resize((6, 4))
    Image.fromarray(first).save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[preview])
    caplog.clear()
    assert read_image(tmp_path / "phone.jpg").shape == (20, 30, 3)
    assert not caplog.text


def test_twelve_bits_in_sixteen_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(random_image(5, 7, dtype=np.uint16) >> 4).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").max() <= 16
    assert "a.png is nearly black: its largest 16-bit value is" in caplog.text


def test_tiles_and_planes_and_a_huge_exif(tmp_path: Path) -> None:
    pixels = random_image(70, 90, 3)
    tiled = {322: 32, 323: 32}
    Image.fromarray(pixels).save(tmp_path / "tiled.tif", tiffinfo=tiled, compression="tiff_lzw")
    Image.fromarray(pixels).save(tmp_path / "exif.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0" + bytes(3_000_000))
    for name in ("tiled.tif", "exif.png"):
        np.testing.assert_array_equal(read_image(tmp_path / name), pixels)


def test_a_colour_profile_is_not_applied(tmp_path: Path) -> None:
    from PIL import ImageCms

    pixels = random_image(5, 7, 3)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names there")
def test_special_files_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "broken.jpg").symlink_to("nowhere.jpg")
    for name, says in {"pipe": "not a file", "loop": "cannot be read", "broken": "no file"}.items():
        with pytest.raises(ImageError, match=says):
            read_image(tmp_path / f"{name}.jpg")


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG file of kinds that Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
