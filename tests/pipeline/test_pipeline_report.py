"""The page of a model: its contents, that names stay text, and when it is written."""

from __future__ import annotations

import json
import os
import re
import webbrowser
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_model import NEAR, WEAK, make_model, make_output
from PIL import Image

from disk.cli.main import main
from disk.errors import ArtifactError, ColmapError, DiskError, ImageError
from disk.pipeline import view as viewing
from disk.pipeline.report import keep_page, write_model_page
from disk.pipeline.report.gather import gather
from disk.pipeline.view import ViewOptions, view
from disk.viewing.plots import script_json

HOSTILE = "x<img src=x onerror=boom()>&lt;\"'/</script><script>boom()</script>.jpg"
NAMES = [f"a/{number}.jpg" for number in range(25)]


class Texts(HTMLParser):
    """All text outside scripts, all tags, and the content of scripts by id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.data: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        if tag == "script":
            self.data[attributes.get("id") or str(len(self.data))] = data
        else:
            self.texts.append(data.strip())


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("output")
    return make_output(root, [*NAMES, HOSTILE], {"b/lost.jpg": "none of its 9 pairs <is> verified"})[1]


@pytest.fixture(scope="module")
def page(output: Path) -> Texts:
    return Texts(write_model_page(output).read_text(encoding="utf-8"))


def test_it_shows_numbers_reasons_and_weak_links(output: Path, page: Texts) -> None:
    numbers = json.loads((output / "summary.json").read_text())
    assert {"26 of 27", f"{numbers['points']:,}", "none of its 9 pairs <is> verified"} <= set(page.texts)
    first_cell = page.texts.index("weakest links, from") + 4
    cells = [text for text in page.texts[first_cell:] if text]
    assert cells[2:4] == [str(WEAK), "20 + 6"]  # strong links join the first twenty, and the last six
    captions = [text for text in page.texts if text.startswith(("The best pair", "The weakest link", "A pair that"))]
    assert captions == [
        "The best pair: 300 verified matches.",
        f"The weakest link of the model: {WEAK} verified matches.",
        "A pair that does not connect: none of its 40 matches are verified.",
    ]


def test_names_are_text_everywhere(page: Texts) -> None:
    assert HOSTILE in page.texts
    photos = json.loads(page.data["photos"])
    assert HOSTILE in [photo["name"] for photo in photos]
    assert not [tag for tag, attributes in page.tags if "onerror" in attributes]
    assert not any("boom" in content for key, content in page.data.items() if key not in ("photos", "cells"))
    assert not {tag for tag, _ in page.tags} & {"iframe", "link", "a", "base"}


def test_json_in_a_script_holds_no_markup() -> None:
    value = ["</script><!--<script>", "&amp;", "\u2028", "\udc80"]
    text = script_json(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_photos_are_small_and_upright(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from disk.viewing.thumbnails import SMALLEST, make_thumbnails, thumbnail

    exif = Image.Exif()
    exif[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 256, (600, 900, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "b.jpg").write_bytes(b"no photo")
    made = make_thumbnails({name: tmp_path / name for name in ("a.jpg", "b.jpg", "c.jpg")})
    assert list(made) == ["a.jpg"]
    assert "photos that cannot be shown: b.jpg, c.jpg" in caplog.text
    (tmp_path / "small.jpg").write_bytes(made["a.jpg"])
    assert Image.open(tmp_path / "small.jpg").size == (267, 400)
    for most in (20_000, 3_000):
        assert len(thumbnail(tmp_path / "a.jpg", most)) <= most
    (tmp_path / "small.jpg").write_bytes(thumbnail(tmp_path / "a.jpg", 1))
    assert max(Image.open(tmp_path / "small.jpg").size) <= SMALLEST


def test_a_bare_colmap_model_with_and_without_its_photos(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, photos = tmp_path / "model", tmp_path / "somewhere"
    model.mkdir()
    make_model(NAMES).write_text(model)
    for name in (*NAMES, "new.jpg"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (160, 120), "red").save(photos / name)
    alone = Texts(view(model)[0].read_text())
    assert "are not found, so its page shows none" in caplog.text
    assert "25 of 25" in alone.texts
    assert {photo["thumbnail"] for photo in json.loads(alone.data["photos"])} == {None}
    facts = gather(model, photos)
    assert facts.missing == {"new.jpg": "unknown: not recorded in the model"}
    both = int(facts.links[0, 1])
    seen = [set(ids) for ids in _observations(model)]
    assert both == len(seen[0] & seen[1]) > 0
    told = Texts(view(model, photos)[0].read_text())
    assert "25 of 26" in told.texts
    assert all(photo["thumbnail"] for photo in json.loads(told.data["photos"]))
    saved = view(model, photos, options=ViewOptions(save=tmp_path / "there"))
    assert saved == [tmp_path / "there" / "report.html"]
    with pytest.raises(ImageError, match="does not exist"):
        view(model, tmp_path / "nowhere")


def _observations(model: Path) -> list[list[int]]:
    import pycolmap

    read = pycolmap.Reconstruction(model)
    images = sorted((read.image(number) for number in read.reg_image_ids()), key=lambda image: image.name)
    return [[point.point3D_id for point in image.get_observation_points2D()] for image in images]


def test_no_file_outside_the_photos_is_shown(tmp_path: Path) -> None:
    model = make_model(["a.jpg", "b.jpg", "c.jpg"])
    model.image(1).name = "../secret.jpg"
    model.image(2).name = str(tmp_path / "secret.jpg")
    (tmp_path / "model" / "images").mkdir(parents=True)
    model.write_binary(tmp_path / "model")
    for path in (tmp_path / "secret.jpg", tmp_path / "model" / "secret.jpg", tmp_path / "model" / "images" / "c.jpg"):
        Image.new("RGB", (16, 12)).save(path)
    assert list(gather(tmp_path / "model").files()) == ["c.jpg"]


def test_view_shows_the_page_of_a_model_unless_pictures_are_asked_for(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(viewing, "_has_browser", lambda: False)
    assert view(output) == [output / "report.html"]
    assert opened == []
    monkeypatch.setattr(viewing, "_has_browser", lambda: True)
    with caplog.at_level("INFO"):
        assert main(["view", str(output)]) == 0
    assert opened == [(output / "report.html").as_uri()]
    assert view(output, what="page", options=ViewOptions(save=tmp_path / "there")) == [tmp_path / "there/report.html"]
    assert main(["view", str(output), "page", "--limit", "3"]) == 2
    assert len(opened) == 1
    pictures = view(output, options=ViewOptions(save=tmp_path / "pictures", limit=2))
    assert sorted(path.suffix for path in pictures) == [".jpg", ".jpg"]


@pytest.mark.skipif(os.name != "posix", reason="windows always has a display")
def test_a_browser_opens_only_where_there_is_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewing.sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not viewing._has_browser()
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert viewing._has_browser()


def test_a_report_by_another_program_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, out = make_output(tmp_path, NAMES[:3], {})
    (out / "report.html").write_text("<html>mine</html>")
    with pytest.raises(ArtifactError, match="not written by this program"):
        write_model_page(out)
    keep_page(out, tmp_path / "photos")
    assert "cannot write" in caplog.text
    assert (out / "report.html").read_text() == "<html>mine</html>"


def test_reconstruct_writes_it_when_the_model_is_newer(tmp_path: Path) -> None:
    photos, out = make_output(tmp_path, NAMES[:3], {})
    keep_page(out, photos)
    first = (out / "report.html").stat()
    keep_page(out, photos)
    assert (out / "report.html").stat().st_ino == first.st_ino
    os.utime(out / "summary.json", (first.st_mtime + 10, first.st_mtime + 10))
    keep_page(out, photos)
    assert (out / "report.html").stat().st_ino != first.st_ino


def test_no_model_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pycolmap

    with pytest.raises(ColmapError, match="no COLMAP model"):
        view(tmp_path, what="page")
    pycolmap.Reconstruction().write(tmp_path)
    assert main(["view", str(tmp_path)]) == 2
    assert "has no image with a pose" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
    assert issubclass(ColmapError, DiskError)


def test_links_of_verified_pairs(output: Path) -> None:
    facts = gather(output)
    place = {name: index for index, name in enumerate(facts.names)}
    assert facts.links[place["a/0.jpg"], place["b/lost.jpg"]] == 0
    assert np.isnan(facts.links[place["a/0.jpg"], place["a/9.jpg"]])
    assert (facts.links[place["a/0.jpg"]] > 0).sum() == NEAR
    np.testing.assert_array_equal(facts.links, facts.links.T)
    assert re.fullmatch("inliers", facts.unit)
