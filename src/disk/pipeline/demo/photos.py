"""The photographs in scikit-image's wheel, which need no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from disk.errors import require
from disk.images.reading import read_image
from disk.shapes import UInt8


def photo_folder() -> Path:
    """The folder of the photographs in the wheel. Raises MissingExtraError without scikit-image."""
    require("skimage")
    import skimage.data

    return Path(skimage.data.__file__).parent


def load_photo(file: str) -> UInt8[np.ndarray, "h w 3"]:
    """Read a photograph by file name, grey ones as RGB."""
    return read_image(photo_folder() / file)


def centre_crop(image: UInt8[np.ndarray, "h w 3"], aspect: float) -> UInt8[np.ndarray, "u v 3"]:
    """The largest centre crop of an image with a given width / height."""
    height, width = image.shape[:2]
    new_width, new_height = min(width, round(height * aspect)), min(height, round(width / aspect))
    left, top = (width - new_width) // 2, (height - new_height) // 2
    return image[top : top + new_height, left : left + new_width]
