"""Interactive plots for a page, drawn by plotly: the model in 3D, and which photos are connected.

Only the page's script inserts names, as plain text: plotly would interpret markup in them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from disk.errors import require
from disk.shapes import Float, UInt8
from disk.viewing.frame import look_from

MAX_POINTS = 60_000  # more would slow down browsers without a GPU
MAX_CELLS = 1000  # per side of the matrix
_NAMED = 30  # up to this many photos, names fit beside the matrix
_MANY = 100  # more cameras than this are drawn with thinner lines and smaller dots
_LONGEST = 18  # characters of a name beside the matrix
_INK, _CAMERAS, _CHOSEN, _GROUND = "#8793a1", "#ff9f43", "#00e0c6", "#14181d"


@dataclass(frozen=True)
class ShownPhoto:
    """A photo on a page: its name, a caption, and a small JPEG if the file could be read."""

    name: str
    text: str
    thumbnail: bytes | None


def plot_library() -> str:
    """plotly's script, which a page with plots includes once. Raises MissingExtraError without plotly."""
    require("plotly")
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def photos_data(photos: Sequence[ShownPhoto]) -> str:
    """The photos as data for the plots of a page; place it before the plots."""
    items = []
    for photo in photos:
        small = photo.thumbnail and f"data:image/jpeg;base64,{base64.b64encode(photo.thumbnail).decode()}"
        items.append({"name": photo.name, "text": photo.text, "thumbnail": small})
    return f'<script type="application/json" id="photos">{script_json(items)}</script>'


def script_json(value: Any) -> str:
    """JSON that is safe inside a <script> element: nothing in it ends the script or starts a comment."""
    text = json.dumps(value)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def model_plot(
    points: Float[np.ndarray, "n 3"],
    colours: UInt8[np.ndarray, "n 3"],
    centres: Float[np.ndarray, "m 3"],
    edges: Float[np.ndarray, "e 2 3"],
    photos: Sequence[int],
) -> str:
    """A 3D model to turn with the mouse; pointing at a camera shows its photo, and a click keeps it.

    points, centres: coordinates with z up; centres are those of the cameras
    edges: the two ends of each line of the cameras' pyramids
    photos: index of each camera's photo in `photos_data`
    """
    from plotly import graph_objects

    lines = np.concatenate([edges, np.full_like(edges[:, :1], np.nan)], axis=1).reshape(-1, 3)
    quiet = {"hoverinfo": "skip", "showlegend": False}
    small = {"size": float(np.clip(300 / np.sqrt(len(points) + 1), 1.6, 3.5)), **_palette(colours)}
    many = len(centres) > _MANY
    traces = [
        graph_objects.Scatter3d(**_xyz(points), mode="markers", marker=small, **quiet),
        graph_objects.Scatter3d(
            **_xyz(lines), mode="lines", line={"color": _CAMERAS, "width": 1 if many else 2}, **quiet
        ),
        graph_objects.Scatter3d(
            **_xyz(centres),
            mode="markers",
            marker={"size": 3 if many else 5, "color": _CAMERAS},
            customdata=list(photos),
            hoverinfo="none",
            showlegend=False,
        ),
        # the camera that was chosen
        graph_objects.Scatter3d(x=[], y=[], z=[], mode="markers", marker={"size": 9, "color": _CHOSEN}, **quiet),
    ]
    hidden = {"visible": False}
    scene = {
        "xaxis": hidden,
        "yaxis": hidden,
        "zaxis": hidden,
        "aspectmode": "data",
        "dragmode": "turntable",
        "bgcolor": _GROUND,
        "camera": {"eye": look_from(points, centres)},
    }
    figure = graph_objects.Figure(traces, {"scene": scene, **_layout(0)})
    return _MODEL.replace("@plot", _markup(figure, "model", "min(600px, 110vw)", buttons=True))


def matrix_plot(links: Float[np.ndarray, "n n"], names: Sequence[str], unit: str) -> str:
    """A matrix of how strongly each pair of photos is connected.

    With more than MAX_CELLS photos, neighbours share a cell, which shows their strongest link.
    links: number of `unit` per pair; 0: matched but not verified; NaN: not matched
    unit: what `links` counts, in the plural
    """
    from plotly import graph_objects

    step = -(-len(names) // MAX_CELLS)
    cells = _strongest_of_blocks(links, step)
    most = max(1.0, float(np.nanmax(cells, initial=1.0)))
    labels = [first if step == 1 else f"{first} and the next {step - 1}" for first in names[::step]]
    ticks = [value for value in (0, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000) if value <= most]
    heat = graph_objects.Heatmap(
        z=np.log1p(cells).astype(np.float32),
        zmin=0,
        zmax=float(np.log1p(most)),
        colorscale=_scale(most),
        hoverinfo="none",
        hoverongaps=False,
        colorbar={
            "title": {"text": unit, "side": "right"},
            "tickvals": np.log1p(ticks).tolist(),
            "ticktext": ["none" if value == 0 else f"{value:,}" for value in ticks],
            "thickness": 14,
            "outlinewidth": 0,
        },
    )
    axis: dict[str, Any] = {"showgrid": False, "zeroline": False, "constrain": "domain", "showticklabels": False}
    axis |= {"showline": True, "mirror": True, "linecolor": _INK}
    if len(names) <= _NAMED:
        shown = [escape(name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :]) for name in names]
        axis |= {"showticklabels": True, "tickvals": list(range(len(names))), "ticktext": shown}
    layout = {
        **_layout(2),
        "xaxis": {**axis, "side": "top", "tickangle": -60},
        "yaxis": {**axis, "autorange": "reversed", "scaleanchor": "x"},
    }
    figure = graph_objects.Figure([heat], layout)
    words = f'<script type="application/json" id="cells">{script_json([labels, unit])}</script>'
    return words + _MATRIX.replace("@plot", _markup(figure, "matrix", "min(720px, 95vw)", buttons=False))


def _palette(colours: UInt8[np.ndarray, "n 3"]) -> dict[str, Any]:
    """Colours as indices into a palette: plotly takes long to check many separate colours."""
    if not len(colours):
        return {}
    indexed = Image.fromarray(colours[None]).quantize(256)
    rows = np.array(indexed.getpalette() or [], int).reshape(-1, 3).tolist()
    last = max(1, len(rows) - 1)
    scale = [[number / last, f"rgb({r},{g},{b})"] for number, (r, g, b) in enumerate(rows)]
    scale = scale if len(scale) > 1 else [[0, scale[0][1]], [1, scale[0][1]]]
    return {"color": np.asarray(indexed)[0], "cmin": 0, "cmax": last, "colorscale": scale}


def _strongest_of_blocks(links: Float[np.ndarray, "n n"], step: int) -> Float[np.ndarray, "m m"]:
    if step == 1:
        return links
    room = -len(links) % step
    padded = np.pad(links, (0, room), constant_values=np.nan)
    count = len(padded) // step
    return np.fmax.reduce(padded.reshape(count, step, count, step), axis=(1, 3))


def _scale(most: float) -> list[list[Any]]:
    """A logarithmic colour scale: grey for 0, viridis from 1 on."""
    from plotly.colors import sample_colorscale

    first = float(np.log1p(0.5) / np.log1p(most))
    steps = np.linspace(0, 1, 9).tolist()
    colours = sample_colorscale("Viridis", steps)
    rest = [[first + (1 - first) * step, colour] for step, colour in zip(steps, colours, strict=True)]
    return [[0.0, "rgba(135,147,161,0.3)"], [first, "rgba(135,147,161,0.3)"], *rest]


def _xyz(rows: Float[np.ndarray, "n 3"]) -> dict[str, Any]:
    return dict(zip("xyz", rows.T.astype(np.float32), strict=True))


def _layout(margin: int) -> dict[str, Any]:
    clear = "rgba(0,0,0,0)"
    return {
        "margin": dict.fromkeys("lrtb", margin),
        "paper_bgcolor": clear,
        "plot_bgcolor": clear,
        "font": {"color": _INK},
        "modebar": {"bgcolor": clear, "color": _INK, "activecolor": _CHOSEN},
    }


def _markup(figure: Any, name: str, height: str, buttons: bool) -> str:
    from plotly.io import to_html

    return to_html(
        figure,
        config={"displaylogo": False, "responsive": True, "displayModeBar": "hover" if buttons else False},
        include_plotlyjs=False,
        full_html=False,
        div_id=name,
        default_height=height,
    )


_MODEL = """<style>
  .model { display: grid; grid-template-columns: minmax(0, 1fr) 300px; gap: 20px; margin-top: 18px }
  .model .canvas { border-radius: 8px; overflow: hidden }
  .model figure { margin: 0 }
  .model select { width: 100%; padding: 7px; margin-bottom: 12px; font: inherit; color: inherit }
  .model select { background: var(--card); border: 1px solid var(--line); border-radius: 6px }
  .model figcaption b { display: block; color: var(--ink); overflow-wrap: anywhere }
  @media (max-width: 860px) { .model { grid-template-columns: minmax(0, 1fr) } }
</style>
<div class="model"><div class="canvas">@plot</div>
<figure id="photo"><select aria-label="photo"><option value="-1">choose a photo</option></select>
<img alt="" hidden><figcaption><b></b><span>Point at a camera to see its photo; click to keep it.</span></figcaption>
</figure></div>
<script>{
const plot = document.getElementById('model'), panel = document.getElementById('photo');
const photos = JSON.parse(document.getElementById('photos').textContent);
const [list, image] = panel.querySelectorAll('select, img'), [name, text] = panel.querySelectorAll('b, span');
const cameras = plot.data[2].customdata;
const CAMERAS = 2, CHOSEN = 3;
let kept = -1, pointed = -1;
photos.forEach((photo, index) => list.add(new Option(photo.name, index)));
function show(index) {
  const photo = photos[index];
  image.hidden = !photo.thumbnail;
  if (photo.thumbnail) image.src = photo.thumbnail;
  name.textContent = photo.name;
  text.textContent = photo.text;
}
function keep(index) {
  kept = index;
  list.value = index;
  show(index);
  const at = Array.from(cameras).indexOf(index), trace = plot._fullData[CAMERAS];
  const place = axis => at < 0 ? [] : [trace[axis][at]];
  Plotly.restyle(plot, {x: [place('x')], y: [place('y')], z: [place('z')]}, [CHOSEN]);
}
// a redraw repeats the hover at the last mouse position, even if the mouse has left
const camera = event => plot.matches(':hover') && event.points.find(point => point.curveNumber === CAMERAS);
plot.on('plotly_hover', event => {
  pointed = camera(event) ? camera(event).customdata : -1;
  if (pointed >= 0) show(pointed);
});
plot.on('plotly_unhover', () => {
  pointed = -1;
  if (kept >= 0) show(kept);
});
// plotly's own click event comes one frame later, too late for a quick click
plot.addEventListener('click', () => { if (pointed >= 0) keep(pointed) }, true);
list.addEventListener('change', () => { if (list.value >= 0) keep(+list.value) });
}</script>"""

_MATRIX = """<div class="plot">@plot</div>
<p class="note" id="cell">Point at a cell to see its photos; drag to zoom, double-click to zoom out.</p>
<script>{
const matrix = document.getElementById('matrix'), note = document.getElementById('cell');
const [labels, unit] = JSON.parse(document.getElementById('cells').textContent);
matrix.on('plotly_hover', event => {
  const {x, y, z} = event.points[0];
  const strength = z > 0 ? Math.round(Math.expm1(z)).toLocaleString('en') + ' ' + unit : 'matched, but not verified';
  note.textContent = labels[y] + ' – ' + labels[x] + ': ' + strength;
});
}</script>"""
