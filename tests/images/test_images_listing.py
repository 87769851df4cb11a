from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from disk.errors import ImageError
from disk.images import listing
from disk.images.listing import list_images, path_of, text_of, unused_files
from disk.storage import artifacts
from disk.storage.made_from import MADE_FROM


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_names_are_relative_paths_without_extension_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a.tiff", "sub/deep/c.1.Png", "notes.txt", ".hidden.jpg", ".cache/d.jpg", "e.HeIc")
    images = list_images(tmp_path)
    assert [(i.name, i.relative) for i in images] == [
        ("a", "a.tiff"),
        ("b", "b.JPG"),
        ("e", "e.HeIc"),
        ("sub/deep/c.1", "sub/deep/c.1.Png"),
    ]
    assert all(i.path == tmp_path / i.relative for i in images)


@pytest.mark.parametrize(
    ("output", "pictures"),
    [
        (["options.json", "artifacts/keypoints.h5", "report.html", "sparse/0/images.bin"], ["artifacts/view/a--b.jpg"]),
        (["options.json", "artifacts/keypoints.h5"], ["undistorted/images/a.jpg", "frames/frame-0.jpg"]),
        ([".made-from.json", "sparse/0/images.bin", "transforms.json"], ["images/a.jpg", "masks/a.jpg.png"]),
        ([".disk-demo", "report.html"], ["scene/photos/a.jpg", "stereo/matches.jpg"]),
        (["keypoints.h5", "descriptors.h5", "scores.h5", "photos.json", "matches.h5"], ["view/a--b.jpg"]),
    ],
)
def test_outputs_in_the_folder_are_skipped(
    tmp_path: Path, output: list[str], pictures: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "a.jpg", *(f"day 1/model/{name}" for name in (*output, *pictures)))
    caplog.set_level("INFO", "disk")
    images = list_images(tmp_path)
    assert [image.name for image in images] == ["a"]
    assert unused_files(tmp_path, images) == ""
    skipped = tmp_path / "day 1/model" / ("view" if "keypoints.h5" in output else "")
    assert [record.message for record in caplog.records] == [f"skipping {skipped}: an output of disk"]


@pytest.mark.parametrize(
    "beside",
    [
        ["keypoints.h5", "photos.json"],  # features written to a folder of photos
        ["artifacts/keypoints.h5", "artifacts/view/a--b.jpg"],  # into one in it
        [".made-from.json", "frames.json"],  # frames of a video
    ],
)
def test_photos_beside_results_are_photos(tmp_path: Path, beside: list[str]) -> None:
    touch(tmp_path, "rome/a.jpg", "rome/day 1/b.jpg", *(f"rome/{name}" for name in beside))
    images = list_images(tmp_path)
    assert [image.name for image in images] == ["rome/a", "rome/day 1/b"]
    assert unused_files(tmp_path, images) == ""


def test_photos_in_a_folder_called_view_are_photos(tmp_path: Path) -> None:
    """Also if features were written beside it, where `disk view` writes no pictures."""
    touch(tmp_path, "keypoints.h5", "view/a.jpg", "rome/keypoints.h5", "rome/b.jpg", "rome/view/c.jpg")
    assert [image.name for image in list_images(tmp_path)] == ["rome/b", "rome/view/c", "view/a"]


def test_other_files_are_named_whatever_they_are_called(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "photos.json", "options.json", "view/b.jpg", "artifacts/c.jpg", "sparse/0/d.jpg")
    images = list_images(tmp_path)
    assert [image.name for image in images] == ["a", "artifacts/c", "sparse/0/d", "view/b"]
    assert unused_files(tmp_path, images) == "2 .json"


@pytest.mark.parametrize("extension", ["jpg", ".jpg", "JPG"])
def test_extension_limits_in_any_case(tmp_path: Path, extension: str) -> None:
    touch(tmp_path, "a.jpg", "b.JPG", "c.jpeg", "a.png")
    assert [i.relative for i in list_images(tmp_path, extension)] == ["a.jpg", "b.JPG"]


def test_images_that_share_a_name_are_both_named_in_the_error(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.jpg", "x/a.PNG")
    with pytest.raises(ImageError, match=r"x/a\.PNG and x/a\.jpg|x/a\.jpg and x/a\.PNG"):
        list_images(tmp_path)


def test_image_named_as_a_folder_of_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a/b/c.jpg")
    with pytest.raises(ImageError, match=r"a\.jpg and the folder of a/b/c\.jpg"):
        list_images(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_in_circles(tmp_path: Path) -> None:
    touch(tmp_path / "photos", "a.jpg", "s/b.jpg")
    touch(tmp_path / "others", "c.jpg")
    for link, target in {"s/up": "..", "self": ".", "s/others": "../../others", "more": "../others"}.items():
        (tmp_path / "photos" / link).symlink_to(target, target_is_directory=True)
    assert [i.relative for i in list_images(tmp_path / "photos")] == ["a.jpg", "more/c.jpg", "s/b.jpg"]


def test_bar_in_a_name_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a|b.jpg")
    with pytest.raises(ImageError, match=r"a\|b\.jpg"):
        list_images(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse the file name itself")
def test_a_name_that_is_not_text_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"")
    with pytest.raises(ImageError, match="not valid text"):
        list_images(tmp_path)


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        list_images(tmp_path / "missing")
    with pytest.raises(ImageError, match="holds no images"):
        list_images(tmp_path)
    touch(tmp_path, "a.txt", "b.md", "c.md", ".hidden.jpg", "README")
    with pytest.raises(ImageError, match=r"4 other files \(2 \.md, 1 \.txt, 1 without extension\), but no images"):
        list_images(tmp_path)
    with pytest.raises(ImageError, match=r"no \.png images \(\.png\)"):
        list_images(tmp_path, "png")
    with pytest.raises(ImageError, match=r"a\.txt is a file, but not one of the images that can be read \(\.jpg"):
        list_images(tmp_path / "a.txt")


def test_one_image_is_a_collection_of_one(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a.jpg", "sub/c.png")
    (image,) = list_images(tmp_path / "b.JPG")
    assert (image.name, image.path, image.relative) == ("b", tmp_path / "b.JPG", "b.JPG")
    assert list_images(tmp_path / "b.JPG", "jpg") == [image]
    with pytest.raises(ImageError, match=r"b\.JPG is a file, but not one of the \.png images"):
        list_images(tmp_path / "b.JPG", "png")


def test_unused_files_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.png", "c.CR2", "sub/d.cr2", "e.gif", ".hidden.jpg")
    images = list_images(tmp_path)
    assert unused_files(tmp_path, images) == "2 .cr2, 1 .gif"
    assert unused_files(tmp_path, list_images(tmp_path, "png")) == "2 .cr2, 1 .gif, 1 .jpg"
    assert unused_files(tmp_path / "a.jpg", images) == ""


@pytest.mark.parametrize(
    "name",
    [
        "with space", " lead", "-leading", "--", "100%", "a#b", "new\nline", "tab\t", "dots...", "a.b.c", "é",
        "e\u0301", "日本語", "📷", "it's \"quoted\"", "$HOME", "*", "[0]", "CON", "x" * 240, "é" * 120,
    ],
)  # fmt: skip
def test_every_valid_file_name(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"{name}.jpg")
    (image,) = list_images(tmp_path)
    assert (image.name, image.relative) == (name, f"{name}.jpg")
    assert image.path.is_file()
    assert path_of(image.relative) == Path(image.relative)
    assert text_of(image.path) == image.path.as_posix()


def test_names_that_differ_in_case_or_in_normalisation_are_distinct(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "A.jpg", "\u00e9.jpg", "e\u0301.jpg")
    assert len({image.name for image in list_images(tmp_path)}) == len(list(tmp_path.iterdir()))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one encoding of names")
def test_names_are_utf8_in_any_locale(tmp_path: Path) -> None:
    touch(tmp_path, "Straße/ж.jpg")
    code = (
        "import sys, pathlib; from disk.images.listing import *; assert sys.getfilesystemencoding() == 'ascii'; "
        "(i,) = list_images(pathlib.Path(sys.argv[1])); assert i.path.is_file() and path_of(i.relative).name; "
        "print(ascii(i.name))"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code, tmp_path], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == ascii("Straße/ж"), done.stderr


def test_a_folder_that_cannot_be_listed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "a.jpg", "closed/b.jpg")
    real = os.scandir

    def scandir(folder: str) -> object:
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert [image.name for image in list_images(tmp_path)] == ["a"]
    assert "closed cannot be listed (Permission denied); its files are not used" in caplog.text


def test_the_marks_of_outputs_are_the_names_that_are_written() -> None:
    """`images` and `storage` do not import each other, so both have these names."""
    assert listing._FEATURES == artifacts.KEYPOINTS
    assert listing._FRAMES == MADE_FROM
    others = {artifacts.DESCRIPTORS, artifacts.SCORES, artifacts.MATCHES, artifacts.UNMATCHED, artifacts.INLIERS}
    assert others | {artifacts.LOCALIZED} < set(listing._BESIDE[listing._FEATURES])
