"""Resizing an image for the network, and mapping points back: the half-pixel rule, written once.

(0, 0) is the centre of the first pixel, so a resize by s maps x to (x + 0.5) s - 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from disk.shapes import Float, Tensor


@dataclass(frozen=True)
class Placement:
    """Where an image lies on a canvas: resized to width x height in the top-left corner, the rest is padding.

    scale_x, scale_y: resized over original size; they differ by rounding only.
    """

    width: int
    height: int
    scale_x: float
    scale_y: float

    def to_original(self, points: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
        """Pixels of the canvas -> pixels of the original image."""
        scale = points.new_tensor([self.scale_x, self.scale_y])
        return (points + 0.5) / scale - 0.5

    def from_original(self) -> Float[np.ndarray, "3 3"]:
        """Homogeneous pixels of the original image -> of the canvas."""
        sx, sy = self.scale_x, self.scale_y
        return np.array([[sx, 0, 0.5 * sx - 0.5], [0, sy, 0.5 * sy - 0.5], [0, 0, 1]])


def place(
    image: np.ndarray, max_size: int = 0, height: int | None = None, width: int | None = None
) -> tuple[np.ndarray, Placement]:
    """Resize an image (H, W, 3) uint8, antialiased, keeping its aspect.

    height and width: into that box, padded with zeros on the right and below to fill it. One of them
    alone: to that size, without padding. Neither: the long side shrinks to max_size pixels (0: as it is).
    """
    rows, columns = image.shape[:2]
    if height is not None or width is not None:
        scale = min(height / rows if height is not None else np.inf, width / columns if width is not None else np.inf)
    else:
        scale = min(1.0, max_size / max(rows, columns)) if max_size else 1.0
    new_rows, new_columns = max(1, round(rows * scale)), max(1, round(columns * scale))
    if (new_rows, new_columns) != (rows, columns):
        resized = Image.fromarray(image).resize((new_columns, new_rows), Image.Resampling.LANCZOS)
        image = np.asarray(resized)
    placement = Placement(new_columns, new_rows, new_columns / columns, new_rows / rows)
    if height is not None and width is not None:
        image = np.pad(image, ((0, height - new_rows), (0, width - new_columns), (0, 0)))
    return image, placement


def to_tensor(image: np.ndarray) -> Float[Tensor, "3 h w"]:
    """uint8 (H, W, 3) -> float32 (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().div_(255)
