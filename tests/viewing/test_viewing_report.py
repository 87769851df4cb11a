"""The report is a single self-contained file in which no text becomes markup; the contact sheet."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from disk.errors import ArtifactError
from disk.viewing.report import Picture, Section, Table, is_report, refuse_other_report, write_report
from disk.viewing.sheet import save_sheet


class Reader(HTMLParser):
    """Collects tags, text and addresses, and checks that tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())


def test_report_is_whole_and_self_contained(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (4, 4), "red").save(picture)
    facts = [("matches", "12"), ("error", "<1 px")]
    sections = [
        Section("First", "a <b>text</b> & more", facts, [Picture(picture, "a 'red' one")]),
        Section("Second", "numbers", table=Table(("view", "error"), [("a.jpg", "0.1"), ("b.jpg", "0.2")])),
    ]
    path = write_report(tmp_path / "deep" / "report.html", "A title", "An intro", sections)
    reader = Reader()
    page = path.read_text(encoding="utf-8")
    reader.feed(page)
    assert not reader.open
    assert {"A title", "An intro", "a <b>text</b> & more", "<1 px", "12", "a.jpg", "0.2"} <= set(reader.text)
    assert "b" in reader.tags  # only for numbers in large type
    (address,) = reader.addresses
    assert base64.b64decode(address.removeprefix("data:image/png;base64,")) == picture.read_bytes()
    assert "://" not in page
    assert "default-src 'none'" in page  # so a script could not fetch anything
    assert is_report(path)
    refuse_other_report(path)
    (tmp_path / "other.html").write_text("<html></html>")
    with pytest.raises(ArtifactError, match=r"other\.html was not written by this program"):
        refuse_other_report(tmp_path / "other.html")
    assert "@" not in page.replace("@media", "")


def test_no_text_is_taken_for_a_placeholder(tmp_path: Path) -> None:
    path = write_report(tmp_path / "report.html", "$intro ${body}", "@body $title", [Section("S", "$mark")])
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert {"$intro ${body}", "@body $title", "$mark"} <= set(reader.text)
    assert reader.tags.count("section") == 1


def test_contact_sheet_puts_images_in_rows(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    images = [np.full((30, 40, 3), colour, np.uint8) for colour in colours]
    sheet = np.asarray(Image.open(save_sheet(images, 2, tmp_path / "sheet.png"))).astype(int)
    assert sheet.shape == (2 * 597 + 8, 1600, 3)
    for (row, column), colour in zip([(300, 400), (300, 1200), (900, 400)], colours, strict=True):
        assert sheet[row, column].tolist() == list(colour)
    assert sheet[900, 1200].tolist() == [255, 255, 255]
