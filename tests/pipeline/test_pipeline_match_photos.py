"""Matching two photos: a known shift, rotated and unrelated photos; what is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

import disk.pipeline.match_photos as stage
from disk.cli.main import main
from disk.errors import DiskError, ImageError
from disk.geometry.chance import log10_false_alarms
from disk.pipeline.match_options import MatchOptions
from disk.pipeline.match_photos import PhotoOptions, find_photo, match_photos
from disk.viewing import canvas

CPU = MatchOptions(rt=0.9, device="cpu")
SHIFT = (24, 8)  # the second photo's corner in pixels of the first


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two crops of one photo, the second also stored with a quarter turn, and one crop of another photo."""
    folder = tmp_path_factory.mktemp("photos")
    photo = data.astronaut()
    x, y = SHIFT
    first, second = photo[100:260, 150:350], photo[100 + y : 260 + y, 150 + x : 350 + x]
    Image.fromarray(first).save(folder / "first.png")
    Image.fromarray(second).save(folder / "second.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # shown after a quarter turn clockwise
    Image.fromarray(np.rot90(second).copy()).save(folder / "turned.png", exif=turned)
    Image.fromarray(data.coffee()[100:260, 150:350]).save(folder / "other.jpg")
    return folder


def test_two_photos_of_one_scene_agree_with_the_truth(folder, tmp_path):
    found = match_photos(folder / "first", folder / "second.png", CPU, PhotoOptions(n=200, save=tmp_path / "picture"))
    assert max(found.keypoints) <= 200
    assert found.verified
    assert len(found.inliers) == len(found.matches) > 50
    moved = found.matches.points0 - found.matches.points1
    right = (moved - torch.tensor(SHIFT)).norm(dim=1).numpy() < 2
    assert right.mean() > 0.8
    assert (found.inliers & right).sum() > 0.9 * right.sum()
    assert found.picture == tmp_path / "picture.jpg"
    assert Image.open(found.picture).size[0] > 500


def test_a_photo_stored_rotated_is_matched_upright_with_points_as_stored(folder):
    found = match_photos(folder / "first", folder / "turned", CPU, PhotoOptions(n=200))
    assert found.verified
    width = Image.open(folder / "second.png").size[0]
    x, y = found.matches.points1.unbind(1)
    upright = torch.stack([width - 1 - y, x], 1)
    right = ((found.matches.points0 - upright) - torch.tensor(SHIFT)).norm(dim=1) < 2
    assert right.float().mean() > 0.8


def test_unrelated_photos_are_not_verified(folder, caplog):
    with caplog.at_level(logging.INFO, "disk"):
        found = match_photos(folder / "first", folder / "other", CPU, PhotoOptions(n=200))
    assert not found.verified
    assert "no more than expected by chance" in caplog.text


def test_a_geometry_explained_by_chance_is_not_verified_and_drawn_as_such(folder, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "disk.viewing.matches.draw_matches", lambda figure, photos, ends, groups, names: drawn.append(groups)
    )
    agree = 0
    monkeypatch.setattr(stage, "estimate_fundamental", lambda p0, p1, threshold: np.arange(len(p0)) < agree)
    options = PhotoOptions(n=200, save=tmp_path)
    count = len(match_photos(folder / "first", folder / "second", CPU, options).matches)
    chance = 2 * 4.0 * np.hypot(200, 160) / (200 * 160)  # of a band of 4 pixels around a line
    border = min(k for k in range(8, count + 1) if log10_false_alarms(count, k, chance) < 0)
    for agree, verified in ((border, border), (border - 1, 0)):
        found = match_photos(folder / "first", folder / "second", CPU, options)
        assert found.inliers.sum() == agree
        assert found.verified == bool(verified)
        bad, good = drawn[-1]
        assert (good.members.sum(), bad.members.sum()) == (verified, count - verified)


def test_a_photo_without_features_matches_nothing(folder, tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "blank.png")
    found = match_photos(tmp_path / "blank", folder / "first", CPU, PhotoOptions(n=50, save=tmp_path))
    assert len(found.matches) == 0
    assert not found.verified
    assert found.picture == tmp_path / "blank.png--first.png.jpg"
    assert found.picture.is_file()


def test_photos_are_found_by_their_names(folder, tmp_path):
    assert find_photo(folder / "other") == folder / "other.jpg"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.v2.jpg")
    assert find_photo(tmp_path / "a") == tmp_path / "a.png"
    assert find_photo(tmp_path / "a.v2") == tmp_path / "a.v2.jpg"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.JPG")
    with pytest.raises(ImageError, match=r"a is ambiguous: a\.JPG or a\.png"):
        find_photo(tmp_path / "a")
    for name in ("none", "no/where"):
        with pytest.raises(ImageError, match="no photo"):
            find_photo(tmp_path / name)
    with pytest.raises(ImageError, match="is a folder"):
        find_photo(tmp_path)


def test_the_command(folder, tmp_path, capsys):
    photos = [str(folder / "first"), str(folder / "second")]
    assert main(["match", *photos, "--n", "150", "--save", str(tmp_path / "p.png"), "--device", "cpu"]) == 0
    assert "agree with the epipolar geometry" in capsys.readouterr().err
    assert (tmp_path / "p.png").is_file()
    for arguments, message in (
        ([*photos, "--u16"], "--u16 is for an artifacts folder"),
        ([*photos, "--rt", "2"], "--rt 2"),
        ([*photos, photos[0]], "not 3 paths"),
        ([str(tmp_path), "--n", "5"], "--n is for two photos"),
        ([str(tmp_path), str(tmp_path)], "is a folder"),
        ([photos[0], str(tmp_path / "nobody.jpg")], "no photo"),
    ):
        assert main(["match", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_invalid_options_are_refused(folder):
    for options in (PhotoOptions(n=0), PhotoOptions(max_size=-1), PhotoOptions(max_error=0)):
        with pytest.raises(DiskError, match="must be"):
            match_photos(folder / "first", folder / "second", CPU, options)


def test_a_picture_replaces_only_pictures(folder, tmp_path):
    other = tmp_path / "holiday.jpg"
    Image.fromarray(data.coffee()).save(other)
    before = other.read_bytes()
    for save in (folder / "first.png", other, tmp_path / "holiday"):
        with pytest.raises(ImageError, match="was not drawn by this program and is not replaced"):
            match_photos(folder / "first", folder / "second", CPU, PhotoOptions(n=100, save=save))
    assert other.read_bytes() == before
    for name in ("a.jpg", "a.png", "a.svg", "a.pdf"):
        for _ in range(2):  # its own picture is drawn again
            file = canvas.save(canvas.new_figure(), tmp_path / name)
            assert canvas.is_drawn(file)
    with pytest.raises(ImageError, match=r"a\.xyz: name it"):
        canvas.save(canvas.new_figure(), tmp_path / "a.xyz")
