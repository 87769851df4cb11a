"""Figures measured in pixels of the finished picture, so that marks keep their size on any photo.

The caller makes the figure: `new_figure()` for a file, which needs no display, or `pyplot.figure()` for a window.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from disk.errors import ImageError
from disk.shapes import UInt8
from disk.storage.new_file import new_file

DPI = 100
INK = "#1b1f24"
FAINT = "#6a737d"
MARGIN = 20  # pixels around everything
HEADER = 64  # pixels above the picture, for its title
LEGEND = 44  # pixels below it, for a legend
Pixels = float | int
_MARK = b"drawn by disk"


def new_figure() -> Figure:
    """A figure to save, without a window."""
    return Figure()


def points(pixels: Pixels) -> float:
    """Convert pixels of the finished picture to matplotlib's points (1/72 inch)."""
    return pixels * 72 / DPI


def set_size(figure: Figure, width: Pixels, height: Pixels) -> None:
    """Set the size of a figure in pixels."""
    figure.set_dpi(DPI)
    figure.set_size_inches(width / DPI, height / DPI)
    figure.set_facecolor("white")


def add_axes(figure: Figure, left: Pixels, top: Pixels, width: Pixels, height: Pixels) -> Axes:
    """Add axes without ticks or frame, placed in pixels from the figure's top left corner."""
    total_width, total_height = figure.get_size_inches() * DPI
    box = (left / total_width, 1 - (top + height) / total_height, width / total_width, height / total_height)
    axes = figure.add_axes(box)
    axes.set_axis_off()
    return axes


def add_title(figure: Figure, title: str, subtitle: str) -> None:
    """Write two lines in the header; a long title is cut at its beginning, since names differ at the end."""
    width, height = figure.get_size_inches() * DPI
    fits = max(20, int((width - 2 * MARGIN) / 11))
    if len(title) > fits:
        title = "…" + title[-fits + 1 :]
    left = MARGIN / width
    figure.text(left, 1 - 12 / height, title, size=points(21), weight="bold", color=INK, va="top", parse_math=False)
    figure.text(left, 1 - 40 / height, subtitle, size=points(16), color=FAINT, va="top", parse_math=False)


def add_legend(figure: Figure, entries: Sequence[tuple[str, str]]) -> None:
    """Write a legend of one row at the bottom left.

    entries: colour and label of each entry
    """
    width, height = figure.get_size_inches() * DPI
    legend = figure.legend(
        handles=[Line2D([], [], color=colour, lw=4, label=label) for colour, label in entries],
        loc="lower left",
        bbox_to_anchor=(MARGIN / width, 12 / height),
        borderaxespad=0,
        ncols=max(1, len(entries)),
        fontsize=points(17),
        frameon=False,
        labelcolor=INK,
        handlelength=1.6,
    )
    legend.set_in_layout(False)


def fit(width: Pixels, height: Pixels, box_width: Pixels, box_height: Pixels) -> tuple[float, float]:
    """The largest size that fits a box at the same aspect ratio; at least one pixel each way."""
    scale = min(box_width / width, box_height / height)
    return max(1.0, width * scale), max(1.0, height * scale)


def show_image(axes: Axes, image: UInt8[np.ndarray, "h w 3"], width: Pixels) -> None:
    """Draw an image, paled so that colours on top stand out; the axes are in its pixels.

    It is first downscaled (antialiased) to about the picture's width, so that a 12 MP image costs no more than a small
    one.
    """
    height, full_width = image.shape[:2]
    if full_width > 2 * width:
        size = (max(1, round(width)), max(1, round(height * width / full_width)))
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    axes.imshow(pale(image), extent=(-0.5, full_width - 0.5, height - 0.5, -0.5), aspect="auto")


def pale(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The image with a third of its colour and a little darker, as a background to draw on."""
    colour = image.astype(np.float32)
    grey = colour @ np.array([0.299, 0.587, 0.114], np.float32)
    return (0.85 * (0.65 * grey[..., None] + 0.35 * colour)).astype(np.uint8)


def save(figure: Figure, path: Path, dpi: int = DPI) -> Path:
    """Write the figure in the format of the suffix (.png, .jpg, .pdf, .svg), creating the folder.

    Raises ImageError for an unknown suffix, and the errors of `new_file`.
    """
    kind = path.suffix.lower()[1:] or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise ImageError(f"cannot draw {path}: name it .jpg, .png, .svg or .pdf")
    # full chroma resolution: thin coloured lines smear otherwise
    of_jpeg = {"quality": 90, "subsampling": 0, "comment": _MARK}
    jpeg: dict[str, Any] = {"pil_kwargs": of_jpeg} if kind in ("jpg", "jpeg") else {}
    with new_file(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # names may be in any script; the font draws boxes for others
        figure.savefig(temporary, format=kind, dpi=dpi, **jpeg)
    return path


def refuse_other_picture(path: Path) -> None:
    """Raise ImageError if the file exists and this program did not draw it: it may be a photo."""
    if path.exists() and not is_drawn(path):
        raise ImageError(f"{path} was not drawn by this program and is not replaced; choose another name")


def is_drawn(path: Path) -> bool:
    """Whether `save`, or matplotlib elsewhere, drew the picture; then it is not a photo."""
    try:
        with Image.open(path) as image:
            marks = (image.info.get("comment", b""), image.info.get("Software", ""))
    except OSError:  # vector graphics
        return path.is_file() and path.suffix.lower() in (".svg", ".pdf")
    return marks[0] == _MARK or "Matplotlib" in str(marks[1])
