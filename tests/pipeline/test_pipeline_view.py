"""`disk view`: which pictures are drawn, what they are called, and what a user may get wrong."""

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

from disk.cli.main import main
from disk.errors import ArtifactError, ImageError, PairsError, PartialFailureError
from disk.images.orientation import to_stored, upright_from_stored
from disk.pipeline import view as stage
from disk.pipeline.view import ViewOptions, picture_name, view
from disk.viewing import matches as drawing

NAMES = ("a", "b.v1", "sub/c")
MATCHES = {("a", "b.v1"): 3, ("a", "sub/c"): 5, ("b.v1", "sub/c"): 4}


@pytest.fixture(autouse=True)
def _no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_has_display", lambda: False)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name, extension in zip(NAMES, ("jpg", "png", "JPG"), strict=True):
        Image.new("RGB", (160, 120), "gray").save(folder / f"{name}.{extension}")
    return folder


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Artifacts as the original writes them, and inliers: the first two matches of two of the pairs."""
    folder = tmp_path / "artifacts"
    folder.mkdir()
    rng = np.random.default_rng(0)
    with h5py.File(folder / "keypoints.h5", "w") as keypoints, h5py.File(folder / "scores.h5", "w") as scores:
        for name in NAMES:
            keypoints[name] = rng.uniform(0, 119, (8, 2)).astype(np.float32)
            scores[name] = np.sort(rng.uniform(0, 5, 8))[::-1].astype(np.float32)
    write_pairs(folder / "matches.h5", MATCHES)
    write_pairs(folder / "inliers.h5", dict.fromkeys(list(MATCHES)[:2], 2))
    return folder


def write_pairs(path: Path, counts: dict[tuple[str, str], int]) -> None:
    with h5py.File(path, "w") as file:
        for (first, second), count in counts.items():
            group = file.require_group(first.replace("/", "|"))
            group[second.replace("/", "|")] = np.stack([np.arange(count), np.arange(count)[::-1]])


def test_keypoints_of_every_image_in_files_named_as_the_images(artifacts: Path, images: Path, tmp_path: Path) -> None:
    saved = view(artifacts, images, "keypoints", ViewOptions(save=tmp_path / "out"))
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in saved) == [
        "a.jpg", "b.v1.jpg", "sub/c.jpg",
    ]  # fmt: skip
    for path in saved:
        with Image.open(path) as picture:
            assert picture.width > 1400  # a small photo is enlarged to the picture, a large one shrunk


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_photos_are_drawn_upright_with_marks_where_they_belong(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((60, 80, 3), np.uint8)
    upright[10:20, 50:60] = 255  # the white square, in whose middle the keypoint is
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
    """What matplotlib chooses by itself when it finds no display."""
    matplotlib.use("agg")
    assert not stage_has_display()


stage_has_display = stage._has_display  # before the fixture above replaces it


def test_missing_and_damaged_images_are_named_and_the_rest_drawn(artifacts: Path, images: Path, tmp_path: Path) -> None:
    (images / "a.jpg").write_bytes((images / "a.jpg").read_bytes()[:300])
    (images / "sub" / "c.JPG").unlink()
    with pytest.raises(PartialFailureError, match=r"2 of 3 not drawn: .*a\.jpg.*sub/c"):
        view(artifacts, images, "keypoints", ViewOptions(save=tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.v1.jpg"]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [(("a", "z"), "no features of z"), (("a", "b.v1", "sub/c"), "two by two"), (("nowhere.txt",), "nowhere.txt")],
)
def test_wrong_pairs(artifacts: Path, images: Path, pairs: tuple[str, ...], message: str) -> None:
    with pytest.raises((PairsError, OSError), match=message):
        view(artifacts, images, "matches", ViewOptions(pairs=pairs))


def test_pairs_that_were_not_matched(artifacts: Path, images: Path) -> None:
    write_pairs(artifacts / "matches.h5", {("a", "b.v1"): 3})
    with pytest.raises(PairsError, match="not matched: a sub/c"):
        view(artifacts, images, "matches", ViewOptions(pairs=("a", "sub/c")))


def test_matches_of_other_features(artifacts: Path, images: Path) -> None:
    write_pairs(artifacts / "matches.h5", {("a", "b.v1"): 9})
    with pytest.raises(ArtifactError, match=r"a and b\.v1 are of other features"):
        view(artifacts, images, "matches")


def test_images_of_something_else(artifacts: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "other" / "z.png")
    with pytest.raises(ImageError, match="none of the 3 images"):
        view(artifacts, tmp_path / "other", "keypoints")
    with pytest.raises(ImageError, match=r"no \.tif images"):
        view(artifacts, tmp_path / "other", "keypoints", ViewOptions(image_extension="tif"))


@pytest.mark.parametrize("what", ["keypoints", "matches"])
def test_an_empty_folder_says_what_to_run(
    what: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["view", str(tmp_path), str(images), what]) == 2
    assert "run `disk detect` first" in capsys.readouterr().err
    assert main(["view", str(tmp_path), str(images), what, "--limit", "0"]) == 2


def test_names_with_extension_spaces_and_typos(artifacts: Path, images: Path, tmp_path: Path) -> None:
    def drawn(*pairs: str) -> list[str]:
        return [path.name for path in view(artifacts, images, "matches", ViewOptions(save=tmp_path / "o", pairs=pairs))]

    assert drawn("a.jpg", "b.v1") == drawn("b.v1.png", "a") == ["a--b.v1.jpg"]
    with pytest.raises(PairsError, match=r"no features of sub/cc; did you mean 'sub/c'\?"):
        drawn("a", "sub/cc")
    with pytest.raises(PairsError, match="'a' is paired with itself"):
        drawn("a", "a.jpg")
    with pytest.raises(PairsError, match="two by two"):
        drawn("a.jpg")


def test_a_model_stands_for_its_artifacts_and_its_photos(artifacts: Path, images: Path) -> None:
    model = artifacts.parent
    with pytest.raises(ImageError, match="which photos are those of"):
        view(model)
    summary = {
        "images": 3, "registered": 3, "points": 1, "track_length": 2.0, "reprojection_error": 0.0, "unconnected": [],
        "models": [], "seconds": {}, "photos": str(images),
    }  # fmt: skip
    (model / "summary.json").write_text(json.dumps(summary))
    assert main(["view", str(model), "keypoints"]) == 0
    assert (artifacts / "view" / "b.v1.jpg").is_file()
    assert len(view(model)) == 3


def test_names_longer_than_a_file_system_takes(images: Path, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("place", [".", "pictures", "sub"])
def test_pictures_never_go_among_the_photos(artifacts: Path, images: Path, place: str) -> None:
    before = {path: path.read_bytes() for path in images.rglob("*") if path.is_file()}
    with pytest.raises(ArtifactError, match="pictures would be taken for photos"):
        view(artifacts, images, "keypoints", ViewOptions(save=images / place))
    assert {path: path.read_bytes() for path in images.rglob("*") if path.is_file()} == before


def test_photos_that_are_others_now_are_named(artifacts, images, tmp_path, caplog) -> None:
    (artifacts / "photos.json").write_text(
        json.dumps({"a": {"relative": "a.jpg", "bytes": 1, "modified": 1, "sha256": "another"}})
    )
    view(artifacts, images, "keypoints", ViewOptions(save=tmp_path / "out"))
    assert "1 photos have changed since their features were found: a" in caplog.text
