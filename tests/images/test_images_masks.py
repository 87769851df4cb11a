from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from disk.errors import ImageError
from disk.images.listing import list_images
from disk.images.masks import find_masks, load_mask, mask_digest
from disk.images.orientation import to_stored, to_upright
from disk.images.reading import read_mask
from disk.images.resizing import Placement, fit

HERE = Placement(4, 3, 1.0, 1.0)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("0000.jpg", "0000.jpg.png"),
        ("0000.jpg", "0000.png"),
        ("0000.jpg", "0000.PNG"),
        ("0000.JPG", "0000.jpg.png"),
        ("0000.jpg", "0000.JPG.Png"),
        ("a.b.jpg", "a.b.png"),
        ("deep/er/x.tif", "deep/er/x.tif.png"),
        ("deep/er/x.tif", "deep/er/x.png"),
        ("x.png", "x.png"),
        ("x.png", "x.png.png"),
    ],
)
def test_both_ways_to_name_a_mask(tmp_path: Path, image: str, mask: str) -> None:
    files = list_images(touch(tmp_path / "in", image))
    masks = find_masks(touch(tmp_path / "masks", mask), files)
    assert masks == {files[0].name: tmp_path / "masks" / mask}


def test_names_of_other_images_are_ignored(tmp_path: Path) -> None:
    files = list_images(touch(tmp_path / "in", "a.jpg", "A.jpg", "sub/a.jpg", "b.jpg"))
    masks = find_masks(touch(tmp_path / "masks", "A.png", "sub/b.png", "b.jpg"), files)
    assert masks == {"A": tmp_path / "masks" / "A.png"}


def test_images_without_mask_and_masks_without_image_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = list_images(touch(tmp_path / "in", "a.jpg", "b.jpg", "c.jpg"))
    find_masks(touch(tmp_path / "masks", "b.png", "d.png", "a.jpg"), files)
    assert f"no mask in {tmp_path / 'masks'} for 2 of 3 images (used as a whole): a.jpg, c.jpg" in caplog.text
    assert f"2 files in {tmp_path / 'masks'} without an image: a.jpg, d.png" in caplog.text


def test_the_error_without_any_mask_names_the_expected_files(tmp_path: Path) -> None:
    files = list_images(touch(tmp_path / "in", "a.jpg"))
    with pytest.raises(ImageError, match=r"no image has a mask in .*: for a\.jpg, name it a\.jpg\.png or a\.png"):
        find_masks(touch(tmp_path / "masks", "mask_a.png"), files)
    with pytest.raises(ImageError, match=r"mask folder .* does not exist"):
        find_masks(tmp_path / "nowhere", files)


def test_an_image_is_not_its_own_mask(tmp_path: Path) -> None:
    files = list_images(touch(tmp_path / "in", "a.png"))
    with pytest.raises(ImageError, match="no image has a mask"):
        find_masks(tmp_path / "in", files)
    assert find_masks(touch(tmp_path / "in", "a.png.png"), files) == {"a": tmp_path / "in" / "a.png.png"}


def test_a_digest_changes_with_the_content_and_with_an_added_or_deleted_mask(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (4, 3), 255).save(path)
    before = mask_digest(path)
    assert before == mask_digest(path)
    Image.new("L", (4, 3), 0).save(path)
    assert len({before, mask_digest(path), mask_digest(None)}) == 3


SEEN = np.array([[True, False, True, True], [False] * 4, [True] * 4])


@pytest.mark.parametrize(
    "mask",
    [
        SEEN,
        SEEN.astype(np.uint8),
        SEEN * 3.5,
        SEEN.astype(np.int64)[..., None],
        np.stack([0 * SEEN, SEEN, 0 * SEEN], 2),
        torch.from_numpy(SEEN),
        torch.from_numpy(SEEN).expand(3, -1, -1),
        Image.fromarray(SEEN),
        Image.fromarray(SEEN.astype(np.uint16) * 300),
        Image.fromarray(np.dstack([np.full((3, 4, 3), 255, np.uint8), 255 * SEEN.astype(np.uint8)])),
    ],
    ids=lambda mask: type(mask).__name__,
)
def test_masks_are_zero_or_not(tmp_path: Path, mask: Any) -> None:
    np.testing.assert_array_equal(load_mask(mask, HERE), SEEN)
    if isinstance(mask, Image.Image):
        mask.save(tmp_path / "mask.png")
        np.testing.assert_array_equal(load_mask(tmp_path / "mask.png", HERE), SEEN)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_layouts_of_a_mask(tmp_path: Path, orientation: int) -> None:
    """As the image is stored, with or without the tag; or upright, if its size or its own tag shows that."""
    upright = np.arange(60).reshape(10, 6) % 7 > 2
    placement = fit((6, 10), orientation=orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(to_stored(upright, orientation))
    stored.save(tmp_path / "tagged.png", exif=exif)
    stored.save(tmp_path / "stored.png")
    Image.fromarray(upright).save(tmp_path / "upright.png")
    exif[0x0112] = 8
    Image.fromarray(to_stored(upright, 8)).save(tmp_path / "other.png", exif=exif)
    for name in ("tagged", "stored", "other") + (("upright",) if orientation > 4 else ()):
        np.testing.assert_array_equal(load_mask(tmp_path / f"{name}.png", placement), upright, err_msg=name)


@pytest.mark.parametrize("factor", [0.2, 1.0, 3.0])
def test_the_edge_of_a_mask_is_between_the_pixels_that_it_separates(factor: float) -> None:
    """A shift by half a pixel, here or in the mapping of points, would allow a pixel on the wrong side."""
    width, edge = 60, 25  # pixels 0 to 24 are allowed: the edge is at x = 24.5
    mask = np.zeros((30, width), bool)
    mask[:, :edge] = True
    placement = fit((width, 30), height=round(30 * factor), width=round(width * factor))
    seen = load_mask(mask, placement)
    columns = torch.arange(placement.width, dtype=torch.float64)
    at = placement.to_original(torch.stack([columns, columns], 1))[:, 0]
    assert torch.equal(seen[0], at < edge - 0.5)
    assert torch.equal(
        load_mask(mask.T, fit((30, width), height=placement.width, width=placement.height))[:, 0], seen[0]
    )


def test_mismatched_sizes_and_invalid_masks(tmp_path: Path) -> None:
    Image.new("L", (5, 3)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"mask .*a\.png is 5 x 3, its image 4 x 3; make them the same size"):
        load_mask(tmp_path / "a.png", HERE)
    with pytest.raises(ImageError, match="a mask is 3 x 4, its image 4 x 3"):
        load_mask(SEEN.T, HERE)
    for mask in (np.zeros(3), np.array(["a"]), SEEN[None, None], 7, None):
        with pytest.raises(ImageError, match="as a mask: pass"):
            load_mask(mask, HERE)


def test_a_mask_without_any_allowed_pixel_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    assert not load_mask(np.zeros((3, 4)), HERE).any()
    assert "a mask is 0 everywhere: its image has no keypoints" in caplog.text


def test_orientations_rotate_masks_like_images() -> None:
    for orientation in range(1, 9):
        stored = np.random.default_rng(0).random((5, 7)) > 0.5
        size = stored.shape[::-1] if orientation <= 4 else stored.shape
        seen = load_mask(stored, fit(size, orientation=orientation))
        np.testing.assert_array_equal(seen, to_upright(stored, orientation))


def test_a_mask_without_a_zero_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noisy = np.full((20, 30), 3, np.uint8)
    noisy[:, 15:] = 252
    labels = Image.fromarray((noisy > 9).astype(np.uint8), "P")
    labels.putpalette([128, 0, 0, 0, 255, 0])
    for mask in (Image.fromarray(noisy), labels):
        mask.save(tmp_path / "a.png")
        assert read_mask(tmp_path / "a.png")[0].all()
        assert "a.png has no pixel that is 0, so it masks nothing" in caplog.text
        caplog.clear()
    Image.new("L", (30, 20), 255).save(tmp_path / "white.png")  # deliberately masks nothing
    assert read_mask(tmp_path / "white.png")[0].all()
    assert not caplog.text
