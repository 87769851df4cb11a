"""Pictures of the keypoints of an image."""

from __future__ import annotations

import math

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from disk.progress import counted
from disk.shapes import Float, UInt8
from disk.viewing import canvas

DARKEST = 0.25  # start of the colour map: colours before it are lost on dark photos
COVERAGE = 0.05  # part of the picture that marks may cover
SCALE_WIDTH = 110  # pixels at the right for the colour bar


def draw_keypoints(
    figure: Figure,
    image: UInt8[np.ndarray, "h w 3"],
    keypoints: Float[np.ndarray, "n 2"],
    scores: Float[np.ndarray, " n"],
    name: str,
) -> None:
    """Draw keypoints over their image, coloured by score, the best on top.

    The size of the dots depends on their number and the size of the picture, not on the resolution of the image. The
    colour bar runs from the 2nd to the 98th percentile of the scores, so that outliers do not flatten it.
    """
    height, width = image.shape[:2]
    count = len(keypoints)
    box_width, box_height = canvas.fit(width, height, 1400, 1200)
    total_width = max(box_width, 420) + 2 * canvas.MARGIN + SCALE_WIDTH
    total_height = max(box_height, 200) + canvas.HEADER + canvas.MARGIN
    canvas.set_size(figure, total_width, total_height)
    canvas.add_title(figure, name, f"{counted(count, 'keypoint')} · {width} × {height} px" if count else "no keypoints")
    axes = canvas.add_axes(figure, canvas.MARGIN, canvas.HEADER, box_width, box_height)
    canvas.show_image(axes, image, box_width)
    if not count:
        return
    order = np.argsort(scores, kind="stable")
    low, high = np.percentile(scores, [2, 98])
    diameter = mark_diameter(count, box_width * box_height)
    marks = axes.scatter(
        keypoints[order, 0],
        keypoints[order, 1],
        c=scores[order],
        cmap=_colours(),
        vmin=low,
        vmax=high if high > low else low + 1,
        s=canvas.points(diameter) ** 2,
        edgecolors="black",
        linewidths=canvas.points(max(0.4, diameter / 12)),
        clip_on=False,
    )
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    scale_height = min(box_height, 400)
    left = canvas.MARGIN + box_width + 18
    scale = canvas.add_axes(figure, left, canvas.HEADER + 30, 20, max(scale_height, 120) - 30)
    scale.set_axis_on()
    bar = figure.colorbar(marks, cax=scale, extend="both")
    bar.ax.set_title("score", size=canvas.points(16), color=canvas.INK, loc="left")
    bar.ax.tick_params(labelsize=canvas.points(14), colors=canvas.INK)


def mark_diameter(count: int, area: canvas.Pixels) -> float:
    """The diameter at which `count` dots cover a twentieth of the picture, from 4 to 12 pixels."""
    return float(np.clip(math.sqrt(COVERAGE * area * 4 / (math.pi * count)), 4, 12))


def _colours() -> ListedColormap:
    """From violet (weak) to yellow (strong)."""
    return ListedColormap(matplotlib.colormaps["plasma"](np.linspace(DARKEST, 1, 256)))
