from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from disk.errors import ImageError
from disk.images.listing import list_images


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


@pytest.mark.parametrize("extension", ["jpg", ".jpg", "JPG"])
def test_extension_limits_in_any_case(tmp_path: Path, extension: str) -> None:
    touch(tmp_path, "a.jpg", "b.JPG", "c.jpeg", "a.png")
    assert [i.relative for i in list_images(tmp_path, extension)] == ["a.jpg", "b.JPG"]


def test_shared_name_names_both(tmp_path: Path) -> None:
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
def test_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"")
    with pytest.raises(ImageError, match="not valid text"):
        list_images(tmp_path)


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        list_images(tmp_path / "missing")
    with pytest.raises(ImageError, match="holds no images"):
        list_images(tmp_path)
    touch(tmp_path, "a.txt", "b.md")
    with pytest.raises(ImageError, match="holds 2 other files, but no images"):
        list_images(tmp_path)
    with pytest.raises(ImageError, match=r"no \.png images"):
        list_images(tmp_path, "png")
    with pytest.raises(ImageError, match="is a file"):
        list_images(tmp_path / "a.txt")
