"""Resizing an image for the network and mapping points back: the only place with the half-pixel rule.

(0, 0) is the centre of the first pixel, so resizing by s maps x to (x + 0.5) s - 0.5. The network sees images upright;
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
    """Where an image lies on a canvas: turned upright, resized, in the top-left corner, padded right and below.

    width, height: pixels of the resized image
    scale_x, scale_y: resized size over upright size; they differ only by rounding
    orientation: the EXIF orientation that makes the original upright
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
        """Map pixels (x, y) of the canvas to the original image."""
        scales = (self.scale_x, self.scale_y)
        # without resizing, coordinates stay exact
        x, y = (
            along if scale == 1 else (along + 0.5) / scale - 0.5
            for along, scale in zip(points.unbind(1), scales, strict=True)
        )
        return torch.stack(stored_point(x, y, self.orientation, self.original_size), 1)

    def from_original(self) -> Float[np.ndarray, "3 3"]:
        """The matrix from homogeneous pixels of the original image to the canvas."""
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
    """Resize an upright uint8 image (H, W, 3), antialiased, keeping its aspect ratio.

    max_size: without height and width, shrink a longer long side to this many pixels; 0: keep the size
    height, width: fit into this box, padded with zeros on the right and below; only one: resize to it, without padding
    orientation: the EXIF orientation that made the image upright; the placement maps back to the image as stored
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
    """The placement that `place` gives an upright image of this (width, height)."""
    columns, rows = size
    if height is not None or width is not None:
        scale = min(height / rows if height is not None else np.inf, width / columns if width is not None else np.inf)
    else:
        scale = min(1.0, max_size / max(rows, columns)) if max_size else 1.0
    new_rows, new_columns = max(1, round(rows * scale)), max(1, round(columns * scale))
    return Placement(new_columns, new_rows, new_columns / columns, new_rows / rows, orientation)


def resize_floats(image: Float[Tensor, "3 h w"], placement: Placement) -> Float[Tensor, "3 h2 w2"]:
    """Resize an upright float image as `place` resizes a uint8 image, without rounding."""
    if image.shape[1:] == (placement.height, placement.width):
        return image
    planes = [
        Image.fromarray(plane).resize((placement.width, placement.height), Image.Resampling.LANCZOS)
        for plane in image.float().cpu().numpy()
    ]
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes])).to(image)


def to_tensor(image: np.ndarray) -> Float[Tensor, "3 h w"]:
    """Convert uint8 (H, W, 3) to float32 (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().div_(255)
