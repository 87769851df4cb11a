"""A video of a camera that moves around in front of textured panels, with known positions. The rendering is exact, as
the panels are parallel to the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter1d

from made_video import write_video
from textured import textured_photo

WIDTH, HEIGHT, FOCAL = 320, 240, 300.0


def film_walk(path: Path, frames: int, rate: int = 8) -> tuple[Path, np.ndarray]:
    """Write the video; also return the position of each frame, (frames, 3).

    The camera moves around once; only the display matrix makes it upright. Every other frame is blurred.
    """
    angles = np.linspace(0, 1.8 * np.pi, frames)
    centres = np.stack([0.8 * np.cos(angles), 0.6 * np.sin(angles), 0.3 * np.sin(2 * angles)], axis=1)
    panels = _panels(np.random.default_rng(5))
    pictures = []
    for i, centre in enumerate(centres):
        picture = _view(panels, centre)
        if i % 2:
            picture = uniform_filter1d(picture, 9, axis=1)
        pictures.append(np.rot90(picture))  # the display matrix turns it back, clockwise
    return write_video(path, pictures, rate=rate, matrix=(0, 1, -1, 0), quality=12), centres


def _panels(rng: np.random.Generator) -> list[tuple[Image.Image, np.ndarray, float]]:
    """Pictures, their upper left corners and the width of a texel, farthest first."""
    wall = Image.fromarray(textured_photo(560, 720, seed=1)), np.array([-6.0, -4.7, 7.0]), 12 / 720
    panels = []
    for i in range(14):
        side, depth = int(rng.integers(50, 120)), rng.uniform(3, 6)
        corner = np.append(rng.uniform(-0.6, 0.4, 2) * [depth, 0.8 * depth], depth)
        panels.append((Image.fromarray(textured_photo(side, side, seed=i + 2)), corner, depth / 330))
    return [wall, *sorted(panels, key=lambda panel: -panel[1][2])]


def _view(panels: list[tuple[Image.Image, np.ndarray, float]], centre: np.ndarray) -> np.ndarray:
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    for panel, corner, texel in panels:
        x, y, depth = corner - centre
        # pixel u = FOCAL (x + texel s) / depth + WIDTH / 2, pixels and texels measured from their corners
        size = FOCAL * texel / depth
        left, top = FOCAL * x / depth + WIDTH / 2, FOCAL * y / depth + HEIGHT / 2
        texels = (1 / size, 0, -left / size, 0, 1 / size, -top / size)
        drawn = panel.transform(picture.size, Image.Transform.AFFINE, texels, Image.Resampling.BILINEAR)
        inside = Image.new("L", panel.size, 255).transform(picture.size, Image.Transform.AFFINE, texels)
        picture.paste(drawn, mask=inside)
    return np.asarray(picture)
