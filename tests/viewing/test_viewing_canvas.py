"""Figures are written in the format of their suffix."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from disk.errors import ImageError
from disk.viewing import canvas


@pytest.mark.parametrize(
    ("name", "start"),
    [("a.png", b"\x89PNG"), ("a.JPG", b"\xff\xd8"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")],
)
def test_the_suffix_decides(tmp_path: Path, name: str, start: bytes) -> None:
    assert canvas.save(canvas.new_figure(), tmp_path / "folder" / name) == tmp_path / "folder" / name
    assert (tmp_path / "folder" / name).read_bytes().startswith(start)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == [name]


def test_a_suffix_that_is_not_a_picture(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"a\.xls: name it"):
        canvas.save(canvas.new_figure(), tmp_path / "a.xls")
    assert not list(tmp_path.iterdir())


def test_a_script_missing_from_the_font_is_drawn_without_warnings(tmp_path: Path) -> None:
    figure = canvas.new_figure()
    figure.text(0, 0, "日本")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        canvas.save(figure, tmp_path / "a.jpg")
