"""Resizing an image for the network, and mapping points back: the half-pixel rule, written once.

(0, 0) is the centre of the first pixel, so a resize by s maps x to (x + 0.5) s - 0.5. The network sees images upright;
"original" is the image as stored in its file, to which all coordinates refer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from disk.images.orientation import AS_STORED, stored_point, upright_from_stored, upright_size
from disk.shapes import Float, Tensor


@dataclass(frozen=True)
class Placement:
    """Where an image lies on a canvas: turned upright, resized to width x height in the top-left corner, then padding.

    scale_x, scale_y: resized over upright size; they differ by rounding only. orientation: EXIF's, which makes the
    original upright.
    """

    width: int
    height: int
    scale_x: float
    scale_y: float
    orientation: int = AS_STORED

    @property
    def original_size(self) -> tuple[int, int]:
        """(width, height) of the original."""
        upright = round(self.width / self.scale_x), round(self.height / self.scale_y)
        return upright_size(self.orientation, upright)

    def to_original(self, points: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
        """Pixels of the canvas -> pixels of the original image."""
        scales = (self.scale_x, self.scale_y)
        # where nothing was resized, coordinates keep every digit
        x, y = (
            along if scale == 1 else (along + 0.5) / scale - 0.5
            for along, scale in zip(points.unbind(1), scales, strict=True)
        )
        return torch.stack(stored_point(x, y, self.orientation, self.original_size), 1)

    def from_original(self) -> Float[np.ndarray, "3 3"]:
        """Homogeneous pixels of the original image -> of the canvas."""
        sx, sy = self.scale_x, self.scale_y
        resized = np.array([[sx, 0, 0.5 * sx - 0.5], [0, sy, 0.5 * sy - 0.5], [0, 0, 1]])
        return resized @ upright_from_stored(self.orientation, self.original_size)


def place(
    image: np.ndarray,
    max_size: int = 0,
    height: int | None = None,
    width: int | None = None,
    orientation: int = AS_STORED,
) -> tuple[np.ndarray, Placement]:
    """Resize an upright image (H, W, 3) uint8, antialiased, keeping its aspect.

    height and width: into that box, padded with zeros on the right and below to fill it. One of them
    alone: to that size, without padding. Neither: the long side shrinks to max_size pixels (0: as it is).
    orientation: EXIF's, which made the image upright; the placement leads back to the image as stored.
    """
    placement = fit((image.shape[1], image.shape[0]), max_size, height, width, orientation)
    new_rows, new_columns = placement.height, placement.width
    if (new_rows, new_columns) != image.shape[:2]:
        image = np.asarray(Image.fromarray(image).resize((new_columns, new_rows), Image.Resampling.LANCZOS))
    if height is not None and width is not None:
        image = np.pad(image, ((0, height - new_rows), (0, width - new_columns), (0, 0)))
    return image, placement


def fit(
    size: tuple[int, int],
    max_size: int = 0,
    height: int | None = None,
    width: int | None = None,
    orientation: int = AS_STORED,
) -> Placement:
    """Where `place` puts an upright image of this (width, height)."""
    columns, rows = size
    if height is not None or width is not None:
        scale = min(height / rows if height is not None else np.inf, width / columns if width is not None else np.inf)
    else:
        scale = min(1.0, max_size / max(rows, columns)) if max_size else 1.0
    new_rows, new_columns = max(1, round(rows * scale)), max(1, round(columns * scale))
    return Placement(new_columns, new_rows, new_columns / columns, new_rows / rows, orientation)


def resize_floats(image: Float[Tensor, "3 h w"], placement: Placement) -> Float[Tensor, "3 h2 w2"]:
    """Resize an upright image of floats as `place` does one of bytes, without rounding."""
    if image.shape[1:] == (placement.height, placement.width):
        return image
    planes = [
        Image.fromarray(plane).resize((placement.width, placement.height), Image.Resampling.LANCZOS)
        for plane in image.float().cpu().numpy()
    ]
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes])).to(image)


def to_tensor(image: np.ndarray) -> Float[Tensor, "3 h w"]:
    """uint8 (H, W, 3) -> float32 (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().div_(255)
