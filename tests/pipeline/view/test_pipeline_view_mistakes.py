"""`disk view`: users' mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from view_folder import write_pairs

from disk.cli.main import main
from disk.errors import ArtifactError, ImageError, PairsError, PartialFailureError
from disk.pipeline.view import ViewOptions, view


def test_missing_and_damaged_images_are_named_and_the_rest_drawn(artifacts: Path, images: Path, tmp_path: Path) -> None:
    (images / "a.jpg").write_bytes((images / "a.jpg").read_bytes()[:300])
    (images / "sub" / "c.JPG").unlink()
    with pytest.raises(PartialFailureError, match=r"2 of 3 pictures not drawn: .*a\.jpg.*sub/c"):
        view(artifacts, images, "keypoints", ViewOptions(save=tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.v1.jpg"]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (("a", "z"), "no features of z"),
        (("a", "b.v1", "sub/c"), "an even number of names"),
        (("nowhere.txt",), "nowhere.txt"),
    ],
)
def test_wrong_pairs(artifacts: Path, images: Path, pairs: tuple[str, ...], message: str) -> None:
    with pytest.raises((PairsError, OSError), match=message):
        view(artifacts, images, "matches", ViewOptions(pairs=pairs))


def test_pairs_without_matches(artifacts: Path, images: Path) -> None:
    write_pairs(artifacts / "matches.h5", {("a", "b.v1"): 3})
    with pytest.raises(PairsError, match="not matched: a sub/c"):
        view(artifacts, images, "matches", ViewOptions(pairs=("a", "sub/c")))


def test_matches_of_other_features(artifacts: Path, images: Path) -> None:
    write_pairs(artifacts / "matches.h5", {("a", "b.v1"): 9})
    with pytest.raises(ArtifactError, match=r"a and b\.v1 are out of date"):
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
    with pytest.raises(PairsError, match="an even number of names"):
        drawn("a.jpg")


@pytest.mark.parametrize("place", [".", "pictures", "sub"])
def test_pictures_are_never_written_among_the_photos(artifacts: Path, images: Path, place: str) -> None:
    before = {path: path.read_bytes() for path in images.rglob("*") if path.is_file()}
    with pytest.raises(ArtifactError, match="pictures would be taken for photos"):
        view(artifacts, images, "keypoints", ViewOptions(save=images / place))
    assert {path: path.read_bytes() for path in images.rglob("*") if path.is_file()} == before


def test_photos_replaced_since_detection_are_named(artifacts, images, tmp_path, caplog) -> None:
    (artifacts / "photos.json").write_text(
        json.dumps({"a": {"relative": "a.jpg", "bytes": 1, "modified": 1, "sha256": "another"}})
    )
    view(artifacts, images, "keypoints", ViewOptions(save=tmp_path / "out"))
    assert "1 photo changed after detection: a" in caplog.text
