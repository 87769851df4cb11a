"""The page of a model in a real browser: it draws, reacts to the mouse, runs no code from names, fetches nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_model import make_output
from PIL import Image

from disk.pipeline.report import write_model_page
from headless import Browser, browser

HOSTILE = "x<img src=x onerror=boom()>&lt;\"'/</script><script>boom()</script>.jpg"
REASON = "none of its 9 pairs is <b>verified</b>"
DRAWN = "document.querySelector('#model canvas') && document.querySelector('#matrix .heatmaplayer image')"
# window position of the camera nearest to the eye, as plotly places annotations, and its photo
NEAREST = """(() => {
  const plot = document.getElementById('model'), scene = plot._fullLayout.scene._scene;
  const {x, y, z, customdata} = plot._fullData[2], box = plot.querySelector('canvas').getBoundingClientRect();
  const {projection, view, model} = scene.glplot.cameraParams;
  const by = (m, v) => [0, 1, 2, 3].map(i => v.reduce((sum, value, j) => sum + m[4 * j + i] * value, 0));
  const seen = Array.from(x).map((_, i) => {
    const at = [x[i], y[i], z[i]].map((value, axis) => value * scene.dataScale[axis]);
    const [u, v, , w] = by(projection, by(view, by(model, [...at, 1])));
    return [w, box.left + box.width * (1 + u / w) / 2, box.top + box.height * (1 - v / w) / 2, customdata[i]];
  }).filter(([w, u, v]) => u > box.left + 9 && u < box.right - 9 && v > box.top + 9 && v < box.bottom - 9);
  return seen.sort((a, b) => a[0] - b[0])[0].slice(1);
})()"""
CELL = """(() => {
  const plot = document.getElementById('matrix'), box = plot.getBoundingClientRect();
  const {xaxis, yaxis} = plot._fullLayout;
  return [box.left + xaxis._offset + xaxis.d2p(@x), box.top + yaxis._offset + yaxis.d2p(@y)];
})()"""
CHOOSE = """{
  const list = document.querySelector('#photo select');
  list.value = '@photo';
  list.dispatchEvent(new Event('change'));
}"""


@pytest.fixture(params=[10, pytest.param(500, marks=pytest.mark.slow)])
def count(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def page(tmp_path: Path, count: int) -> Path:
    names = [HOSTILE, *(f"cam{number // 50}/{number:04d}.jpg" for number in range(1, count))]
    lost = {f"lost{number}.jpg": REASON for number in range(count // 10)}
    return write_model_page(make_output(tmp_path, names, lost)[1])


@pytest.fixture
def shown(tmp_path: Path, page: Path) -> Iterator[Browser]:
    with browser(tmp_path) as opened:
        opened.call("Page.addScriptToEvaluateOnNewDocument", source="var booms = 0; function boom() { booms++ }")
        opened.open(page)
        opened.wait(DRAWN)
        yield opened


@pytest.mark.slow
def test_in_a_browser(shown: Browser, page: Path, count: int, tmp_path: Path) -> None:
    assert page.stat().st_size < 40e6
    photos = shown.value("JSON.parse(document.getElementById('photos').textContent).map(photo => photo.name)")
    assert len(photos) == count + count // 10

    # the model is drawn: its cameras are orange, its ball has all colours
    shown.value("document.getElementById('model').scrollIntoView({block: 'start', behavior: 'instant'})")
    x, y, photo = shown.value(NEAREST)
    drawn = np.asarray(Image.open(shown.picture(tmp_path / "a.png")).convert("RGB"), int)
    near = np.abs(drawn[int(y) - 6 : int(y) + 7, int(x) - 6 : int(x) + 7] - [255, 159, 67]).max(2)
    assert (near < 60).sum() >= 4
    assert shown.value("document.querySelector('#photo img').hidden")

    # the camera under the mouse shows its photo, and keeps it after a click
    name = "document.querySelector('#photo b').textContent"
    shown.move(x + 40, y + 40)
    shown.move(x, y)
    shown.wait(f"{name} === JSON.parse(document.getElementById('photos').textContent)[{photo}].name")
    shown.wait("document.querySelector('#photo img').naturalWidth === 160")
    shown.click(x, y)
    shown.wait(f"document.querySelector('#photo select').value === '{photo}'")
    shown.wait("document.getElementById('model')._fullData[3].x.length === 1")

    # the search finds a photo that is not in the model, with its reason
    lost = photos.index("lost0.jpg")
    shown.move(5, 5)
    shown.value(CHOOSE.replace("@photo", str(lost)))
    assert shown.value("document.querySelector('#photo span').textContent") == f"not in the model: {REASON}"
    assert shown.value("document.getElementById('model')._fullData[3].x.length") == 0

    # a cell of the matrix names its photos
    shown.value("document.getElementById('matrix').scrollIntoView({block: 'start', behavior: 'instant'})")
    shown.move(5, 5)
    shown.move(*shown.value(CELL.replace("@x", "4").replace("@y", "2")))
    shown.wait("/: /.test(document.getElementById('cell').textContent)")
    note = shown.value("document.getElementById('cell').textContent")
    if count == 10:
        assert note == "cam0/0003.jpg – cam0/0005.jpg: 240 inliers"
    else:  # a cell is less than a pixel
        assert re.fullmatch(r"cam0/000\d\.jpg – cam0/000\d\.jpg: (300|240|180) inliers", note)

    assert shown.errors == []
    assert shown.requests == [page.resolve().as_uri()]
    assert shown.value("booms") == 0

    # on a phone nothing is wider than the window
    shown.open(page, 390, 800, dark=True)
    shown.wait(DRAWN)
    assert shown.value("document.documentElement.scrollWidth") <= 390
    assert shown.value("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    assert shown.errors == []
