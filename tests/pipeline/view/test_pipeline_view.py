"""`disk view`: which pictures are drawn, and their names."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from view_folder import write_pairs

from disk.cli.main import main
from disk.errors import ImageError
from disk.images.orientation import to_stored, upright_from_stored
from disk.pipeline import view as stage
from disk.pipeline.view import ViewOptions, picture_name, view
from disk.viewing import matches as drawing


def test_keypoints_of_every_image_in_files_named_as_the_images(artifacts: Path, images: Path, tmp_path: Path) -> None:
    saved = view(artifacts, images, "keypoints", ViewOptions(save=tmp_path / "out"))
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in saved) == [
        "a.jpg", "b.v1.jpg", "sub/c.jpg",
    ]  # fmt: skip
    for path in saved:
        with Image.open(path) as picture:
            assert picture.width > 1400  # a small photo is enlarged to the picture, a large one shrunk


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_photos_are_drawn_upright_with_markers_in_the_right_place(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((60, 80, 3), np.uint8)
    upright[10:20, 50:60] = 255  # the white square with the keypoint at its centre
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "in").mkdir()
    Image.fromarray(to_stored(upright, orientation)).save(tmp_path / "in" / "a.png", exif=exif)
    (tmp_path / "out").mkdir()
    size = (80, 60) if orientation <= 4 else (60, 80)
    stored = np.linalg.inv(upright_from_stored(orientation, size)) @ [54.5, 14.5, 1]
    with h5py.File(tmp_path / "out" / "keypoints.h5", "w") as file:
        file["a"] = stored[None, :2].astype(np.float32)
    drawn = {}

    def look(figure: object, image: np.ndarray, keypoints: np.ndarray, *others: object) -> None:
        drawn.update(image=image, keypoints=keypoints)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("disk.viewing.keypoints.draw_keypoints", look)
        view(tmp_path / "out", tmp_path / "in", "keypoints", ViewOptions(save=tmp_path / "pictures"))
    np.testing.assert_array_equal(drawn["image"], upright)
    np.testing.assert_allclose(drawn["keypoints"], [[54.5, 14.5]])


def test_one_image_in_place_of_the_folder(artifacts: Path, images: Path, tmp_path: Path) -> None:
    saved = view(artifacts, images / "b.v1.png", "keypoints", ViewOptions(save=tmp_path / "out"))
    assert [path.name for path in saved] == ["b.v1.jpg"]


@given(st.lists(st.text("a-%/é2F", min_size=1, max_size=4), min_size=4, max_size=4) | st.just(["-", "--", "---", "-"]))
def test_no_two_pairs_share_a_picture(names: list[str]) -> None:
    pairs = {(names[0], names[1]), (names[2], names[3]), (names[0] + names[1], names[2])}
    assert len({picture_name(pair) for pair in pairs}) == len(pairs)


@pytest.mark.parametrize("letter", ["x", "é", "📷", "%"])
def test_long_names_are_drawn(tmp_path: Path, letter: str) -> None:
    long = letter * (248 // len(letter.encode()))
    names = [long + "1", long + "2", long + "3"]
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    with h5py.File(tmp_path / "out" / "keypoints.h5", "w") as file:
        for name in names:
            Image.new("RGB", (16, 12)).save(tmp_path / "in" / f"{name}.png")
            file[name] = np.zeros((8, 2), np.float32)
    write_pairs(tmp_path / "out" / "matches.h5", {(names[0], names[1]): 3, (names[0], names[2]): 3})
    for what, count in (("keypoints", 3), ("matches", 2)):
        assert len({path for path in view(tmp_path / "out", tmp_path / "in", what) if path.is_file()}) == count


def test_limit_keeps_the_pairs_with_most_matches(artifacts: Path, images: Path, tmp_path: Path) -> None:
    saved = view(artifacts, images, "matches", ViewOptions(save=tmp_path / "out", limit=2))
    assert [path.name for path in saved] == ["a--sub%2Fc.jpg", "b.v1--sub%2Fc.jpg"]
    saved = view(artifacts, images, "keypoints", ViewOptions(save=tmp_path / "out", limit=1))
    assert [path.name for path in saved] == ["a.jpg"]
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_pairs_by_name_in_any_order_or_from_a_file(artifacts: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("sub/c a.jpg\n")
    for pairs in (("sub/c", "a"), (str(tmp_path / "pairs.txt"),)):
        saved = view(artifacts, images, "matches", ViewOptions(save=tmp_path / "out", pairs=pairs))
        assert [path.name for path in saved] == ["a--sub%2Fc.jpg"]
    saved = view(artifacts, images, "keypoints", ViewOptions(save=tmp_path / "out", pairs=("sub/c", "a")))
    assert [path.name for path in saved] == ["a.jpg", "c.jpg"]


def drawn_groups(monkeypatch: pytest.MonkeyPatch, artifacts: Path, images: Path) -> dict[str, dict[str, list[bool]]]:
    """The groups that are drawn, by pair: label to members."""
    drawn = {}

    def record(figure: object, photos: object, ends: object, groups: list, names: tuple[str, str]) -> None:
        drawn[picture_name(names)] = {group.label: group.members.tolist() for group in groups}

    monkeypatch.setattr(drawing, "draw_matches", record)
    view(artifacts, images, "matches")
    return drawn


def test_matches_are_verified_or_not(artifacts: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = drawn_groups(monkeypatch, artifacts, images)
    # inliers hold (0, 1), (1, 0); matches of 3 hold (0, 2), (1, 1), (2, 0), and a pair without inliers has none
    assert drawn["a--b.v1"] == {"not verified": [True] * 3, "verified": [False] * 3}
    assert drawn["b.v1--sub%2Fc"] == {"not verified": [True] * 4, "verified": [False] * 4}
    write_pairs(artifacts / "inliers.h5", {("a", "b.v1"): 3})
    drawn = drawn_groups(monkeypatch, artifacts, images)
    assert drawn["a--b.v1"] == {"not verified": [False] * 3, "verified": [True] * 3}


def test_without_inliers_nothing_is_called_wrong(
    artifacts: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (artifacts / "inliers.h5").unlink()
    drawn = drawn_groups(monkeypatch, artifacts, images)
    assert drawn["a--sub%2Fc"] == {"matches, not verified yet": [True] * 5}


def test_the_command_without_a_display_saves_beside_the_artifacts(artifacts: Path, images: Path) -> None:
    assert main(["view", str(artifacts), str(images), "matches", "--limit", "1"]) == 0
    assert [path.name for path in (artifacts / "view").iterdir()] == ["a--sub%2Fc.jpg"]


def test_windows_open_one_by_one_and_are_closed(artifacts: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import pyplot

    matplotlib.use("agg")
    shown = []
    monkeypatch.setattr(stage, "_has_display", lambda: True)
    monkeypatch.setattr(
        pyplot, "show", lambda: shown.append([pyplot.figure(n).get_label() for n in pyplot.get_fignums()])
    )
    assert view(artifacts, images, "keypoints", ViewOptions(limit=2)) == []
    assert shown == [["a"], ["b.v1"]]
    assert pyplot.get_fignums() == []
    assert not (artifacts / "view").exists()


def test_agg_is_no_display() -> None:
    """matplotlib's own choice when it finds no display."""
    matplotlib.use("agg")
    assert not stage_has_display()


stage_has_display = stage._has_display  # before the fixture above replaces it


def test_a_model_stands_for_its_artifacts_and_its_photos(artifacts: Path, images: Path) -> None:
    model = artifacts.parent
    with pytest.raises(ImageError, match="give their folder"):
        view(model)
    summary = {
        "images": 3, "registered": 3, "points": 1, "track_length": 2.0, "reprojection_error": 0.0, "unconnected": [],
        "models": [], "seconds": {}, "photos": str(images),
    }  # fmt: skip
    (model / "summary.json").write_text(json.dumps(summary))
    assert main(["view", str(model), "keypoints"]) == 0
    assert (artifacts / "view" / "b.v1.jpg").is_file()
    assert len(view(model)) == 3


def test_names_too_long_for_the_file_system(images: Path, tmp_path: Path) -> None:
    names = ["ä" * 100 + ending for ending in ("1", "2", "3")]
    folder = tmp_path / "long"
    folder.mkdir()
    with h5py.File(folder / "keypoints.h5", "w") as keypoints:
        for name in names:
            keypoints[name] = np.full((4, 2), 50, np.float32)
            Image.new("RGB", (160, 120)).save(images / f"{name}.jpg")
    write_pairs(folder / "matches.h5", {(names[0], names[1]): 2, (names[0], names[2]): 2})
    saved = view(folder, images, "matches", ViewOptions(save=tmp_path / "out"))
    assert len({path.name for path in saved}) == 2
    assert all(path.is_file() for path in saved)
