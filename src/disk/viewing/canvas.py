"""Figures measured in pixels of the finished picture, so that marks keep their size on any photo.

A figure is made by the caller: `new_figure()` for a file, which needs no display, or `pyplot.figure()` for
a window. Everything drawn here is sized for the picture, never for the photo.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from disk.errors import ImageError
from disk.shapes import UInt8
from disk.storage.new_file import new_file

DPI = 100
INK = "#1b1f24"
FAINT = "#6a737d"
MARGIN = 20  # pixels around everything
HEADER = 64  # pixels above the picture, for its title
Pixels = float | int
_MARK = b"drawn by disk"


def new_figure() -> Figure:
    """A figure to be saved."""
    return Figure()


def points(pixels: Pixels) -> float:
    """A length in pixels of the finished picture, in matplotlib's points (1/72 inch)."""
    return pixels * 72 / DPI


def set_size(figure: Figure, width: Pixels, height: Pixels) -> None:
    """Give the figure a size in pixels."""
    figure.set_dpi(DPI)
    figure.set_size_inches(width / DPI, height / DPI)
    figure.set_facecolor("white")


def add_axes(figure: Figure, left: Pixels, top: Pixels, width: Pixels, height: Pixels) -> Axes:
    """Bare axes at a place given in pixels from the figure's top left corner."""
    total_width, total_height = figure.get_size_inches() * DPI
    box = (left / total_width, 1 - (top + height) / total_height, width / total_width, height / total_height)
    axes = figure.add_axes(box)
    axes.set_axis_off()
    return axes


def add_title(figure: Figure, title: str, subtitle: str) -> None:
    """Two lines in the header; a long name loses its beginning, never its end."""
    width, height = figure.get_size_inches() * DPI
    fits = max(20, int((width - 2 * MARGIN) / 11))
    if len(title) > fits:
        title = "…" + title[-fits + 1 :]
    left = MARGIN / width
    figure.text(left, 1 - 12 / height, title, size=points(21), weight="bold", color=INK, va="top", parse_math=False)
    figure.text(left, 1 - 40 / height, subtitle, size=points(16), color=FAINT, va="top", parse_math=False)


def fit(width: Pixels, height: Pixels, box_width: Pixels, box_height: Pixels) -> tuple[float, float]:
    """The size of a picture that fills a box, its aspect kept; at least one pixel each way."""
    scale = min(box_width / width, box_height / height)
    return max(1.0, width * scale), max(1.0, height * scale)


def show_image(axes: Axes, image: UInt8[np.ndarray, "h w 3"], width: Pixels) -> None:
    """Draw a photo, paled so that colours on top stand out; the axes' units are its own pixels.

    The photo is shrunk (antialiased) to about the picture's width first: a 12 MP photo costs no more
    than a small one.
    """
    height, full_width = image.shape[:2]
    if full_width > 2 * width:
        size = (max(1, round(width)), max(1, round(height * width / full_width)))
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    axes.imshow(pale(image), extent=(-0.5, full_width - 0.5, height - 0.5, -0.5), aspect="auto")


def pale(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with a third of its colour and a little darker, as a ground to draw on."""
    colour = image.astype(np.float32)
    grey = colour @ np.array([0.299, 0.587, 0.114], np.float32)
    return (0.85 * (0.65 * grey[..., None] + 0.35 * colour)).astype(np.uint8)


def save(figure: Figure, path: Path, dpi: int = DPI) -> Path:
    """Write the figure as its suffix says (.png, .jpg, .pdf, .svg), making the folder; errors as for `new_file`.

    Raises ImageError for a suffix that is no kind of picture.
    """
    kind = path.suffix.lower()[1:] or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise ImageError(f"cannot draw {path}: name it .jpg, .png, .svg or .pdf")
    # full chroma resolution: thin coloured lines smear otherwise
    of_jpeg = {"quality": 90, "subsampling": 0, "comment": _MARK}
    jpeg: dict[str, Any] = {"pil_kwargs": of_jpeg} if kind in ("jpg", "jpeg") else {}
    with new_file(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=dpi, **jpeg)
    return path


def refuse_other_picture(path: Path) -> None:
    """Raise ImageError for a picture that is there and was not drawn by this program: it may be a photo."""
    if path.exists() and not is_drawn(path):
        raise ImageError(f"{path} was not drawn by this program and is not replaced; choose another name")


def is_drawn(path: Path) -> bool:
    """Whether a picture was drawn by `save`, or by matplotlib elsewhere: that it is no photo."""
    try:
        with Image.open(path) as image:
            marks = (image.info.get("comment", b""), image.info.get("Software", ""))
    except OSError:  # vector graphics
        return path.is_file() and path.suffix.lower() in (".svg", ".pdf")
    return marks[0] == _MARK or "Matplotlib" in str(marks[1])
