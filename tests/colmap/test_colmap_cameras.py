"""Camera guesses, compared with COLMAP's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from disk.colmap.cameras import camera_model, guess_camera
from disk.errors import ColmapError, ImageError

FOCAL_35MM, FOCAL, PLANE_X, PLANE_Y, PLANE_UNIT, PIXELS_X = 0xA405, 0x920A, 0xA20E, 0xA20F, 0xA210, 0xA002
MAKE, MODEL = 0x010F, 0x0110


def photo(path: Path, exif: dict[int, Any], camera: tuple[str, str] | None = None) -> Path:
    """An image file of 640 x 480 with these tags in the Exif IFD, camera make and model."""
    tags = Image.Exif()
    if camera:
        tags[MAKE], tags[MODEL] = camera
    tags[0x8769] = exif
    Image.new("RGB", (640, 480)).save(path, exif=tags)
    return path


@pytest.mark.parametrize("name", ["simple-radial", "simple-pinhole", "pinhole", "opencv"])
def test_the_originals_names(name: str) -> None:
    assert camera_model(name) == name.upper().replace("-", "_")


def test_every_model_of_colmap_under_both_names() -> None:
    import pycolmap

    models = set(pycolmap.CameraModelId.__members__) - {"INVALID"}
    assert len(models) > 10
    for model in models:
        assert camera_model(model) == camera_model(model.lower().replace("_", "-")) == model


@pytest.mark.parametrize("name", ["radialish", "invalid", ""])
def test_an_unknown_model(name: str) -> None:
    with pytest.raises(ColmapError, match="choose from simple-pinhole, pinhole"):
        camera_model(name)


def test_without_exif_the_focal_length_is_a_guess(tmp_path: Path) -> None:
    Image.new("RGB", (640, 480)).save(tmp_path / "a.png")
    camera = guess_camera(tmp_path / "a.png", "SIMPLE_RADIAL")
    assert camera.params.tolist() == [1.2 * 640, 320, 240, 0]  # no distortion initially
    assert not camera.has_prior_focal_length
    Image.new("RGB", (480, 640)).save(tmp_path / "tall.png")
    camera = guess_camera(tmp_path / "tall.png", "OPENCV")
    assert camera.params.tolist() == [768, 768, 240, 320, 0, 0, 0, 0]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_focal_length_from_the_exif_ifd(tmp_path: Path, suffix: str) -> None:
    """The 35 mm equivalent is relative to the diagonal of a 36 x 24 mm frame."""
    camera = guess_camera(photo(tmp_path / f"a{suffix}", {FOCAL_35MM: 28}), "PINHOLE")
    assert camera.focal_length_x == pytest.approx(28 * 800 / (36**2 + 24**2) ** 0.5, rel=1e-3)
    assert camera.has_prior_focal_length


@pytest.mark.parametrize(
    ("exif", "camera", "known"),
    [
        ({}, None, False),
        ({FOCAL_35MM: 30}, None, True),
        ({FOCAL_35MM: 0}, None, False),
        ({FOCAL: IFDRational(58, 10)}, None, False),
        ({FOCAL: IFDRational(58, 10)}, ("Canon", "PowerShot SD1000"), True),  # by COLMAP's table of sensors
        ({FOCAL: IFDRational(58, 10)}, ("Nobody", "Nothing"), False),
        ({FOCAL: IFDRational(58, 10), FOCAL_35MM: 35}, ("Canon", "PowerShot SD1000"), True),
        (
            {FOCAL: IFDRational(58, 10), PLANE_X: IFDRational(3000, 1), PLANE_Y: IFDRational(3000, 1)}
            | {PLANE_UNIT: 2, PIXELS_X: 640},
            None,
            True,
        ),
    ],
)
def test_the_same_as_colmap(tmp_path: Path, exif: dict[int, Any], camera: tuple[str, str] | None, known: bool) -> None:
    import pycolmap

    path = photo(tmp_path / "a.jpg", exif, camera)
    ours, theirs = guess_camera(path, "SIMPLE_RADIAL"), pycolmap.infer_camera_from_image(path)
    assert ours.params == pytest.approx(theirs.params)
    assert ours.has_prior_focal_length == theirs.has_prior_focal_length == known
    assert (ours.width, ours.height) == (640, 480)


@pytest.mark.parametrize("nonsense", ["wide", IFDRational(1, 0), -3])
def test_invalid_exif_values_are_ignored(tmp_path: Path, nonsense: Any) -> None:
    camera = guess_camera(photo(tmp_path / "a.jpg", {FOCAL_35MM: nonsense}), "SIMPLE_PINHOLE")
    assert camera.focal_length == 768


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(ImageError, match=r"a\.jpg"):
        guess_camera(tmp_path / "a.jpg", "PINHOLE")
