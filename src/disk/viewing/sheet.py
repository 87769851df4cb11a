"""Contact sheets: many images in a grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from disk.shapes import UInt8
from disk.storage.new_file import new_file
from disk.viewing.canvas import fit

WIDTH = 1600
GAP = 8


def save_sheet(images: Sequence[UInt8[np.ndarray, "_ _ 3"]], columns: int, path: Path) -> Path:
    """Save images of the same aspect ratio as a grid on white, `columns` images wide."""
    width = (WIDTH - GAP * (columns - 1)) // columns
    height = round(fit(images[0].shape[1], images[0].shape[0], width, 10 * width)[1])
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (WIDTH, rows * (height + GAP) - GAP), "white")
    for index, image in enumerate(images):
        small = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(small, (index % columns * (width + GAP), index // columns * (height + GAP)))
    with new_file(path) as temporary:
        sheet.save(temporary, Image.registered_extensions()[path.suffix.lower()], quality=88)
    return path
