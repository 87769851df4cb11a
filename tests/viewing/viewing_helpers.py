"""Helpers of the tests of pictures."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure


def pixels(figure: Figure) -> np.ndarray:
    """The finished picture, (H, W, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def close_to(colour: np.ndarray, name: str, tolerance: float = 60) -> bool:
    """Whether an RGB pixel is close to a named colour; alpha and antialiasing change it."""
    return bool(np.abs(colour.astype(float) - 255 * np.array(to_rgb(name))).max() < tolerance)


def texts(figure: Figure) -> list[str]:
    """The figure's texts and the labels of its legends."""
    found = [text.get_text() for text in figure.texts]
    for legend in figure.legends:
        found += [text.get_text() for text in legend.get_texts()]
    return found
