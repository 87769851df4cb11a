"""Decoding image files as they are stored: 8-bit RGB, no EXIF rotation."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from disk.errors import ImageError, MissingExtraError

MAX_PIXELS = 500_000_000  # above this a file is taken for a decompression bomb; 22,000 x 22,000 still passes
LARGE_PIXELS = 50_000_000  # decoding takes ten bytes a pixel
_large = threading.Lock()
_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "PPM")


def read_image(path: Path) -> np.ndarray:
    """An image as uint8 (H, W, 3) RGB. Grey is repeated, 16 bits are scaled to 8, alpha is put on black.

    Raises ImageError for a file that is missing, damaged, no image, or larger than MAX_PIXELS.
    """
    with _open(path) as image:
        _load(image, path)
        if _is_deep(image):
            grey = _deep_to_uint8(np.asarray(image), path)
            return np.repeat(grey[:, :, None], 3, axis=2)
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
            return np.array(Image.alpha_composite(black, rgba).convert("RGB"))
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_mask(path: Path) -> np.ndarray:
    """A mask as bool (H, W), False where all channels are zero; ImageError as for read_image."""
    with _open(path) as image:
        _load(image, path)
        if image.mode in ("1", "L") or _is_deep(image):
            return np.not_equal(np.asarray(image), 0)
        return np.any(np.asarray(image.convert("RGB")), axis=2)


@contextlib.contextmanager
def one_large_at_a_time(path: Path) -> Iterator[None]:
    """Wait while another thread works on an image of more than LARGE_PIXELS, if this is one too."""
    width, height = image_size(path)
    with _large if width * height > LARGE_PIXELS else contextlib.nullcontext():
        yield


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels, from the header alone; ImageError as for read_image."""
    with _open(path) as image:
        return image.size


def _open(path: Path) -> Image.Image:
    path = Path(path)
    formats = list(_FORMATS)
    if path.suffix.lower() in (".heic", ".heif"):
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            raise MissingExtraError("pillow-heif", "heic") from None
        register_heif_opener()
        formats.append("HEIF")
    # our own limit below takes the place of Pillow's, which stops short of large aerial images
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    try:
        image = Image.open(path, formats=formats)
    except FileNotFoundError:
        raise ImageError(f"no file {path}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not an image that can be read, or is damaged") from None
    except Image.DecompressionBombError:
        raise _bomb(path) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path} cannot be read: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise _bomb(path)
    return image


def _load(image: Image.Image, path: Path) -> None:
    # Pillow's plugins raise whatever their parsers stumble over when a file is damaged
    try:
        image.load()
    except MemoryError:
        raise ImageError(f"{path} ({image.width} x {image.height}) does not fit into memory") from None
    except Exception as error:
        raise ImageError(f"{path} is damaged: {error}") from error


def _bomb(path: Path) -> ImageError:
    return ImageError(f"{path} would decode to more than {MAX_PIXELS // 10**6} million pixels; make it smaller")


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _deep_to_uint8(values: np.ndarray, path: Path) -> np.ndarray:
    """16-bit grey, which Pillow gives as 16 or 32-bit integers, to 8 bits."""
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{path} has {values.dtype} pixels; save it with 8 or 16 bits")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
