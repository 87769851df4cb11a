"""Decoding image files to 8-bit RGB, upright by their EXIF orientation or as stored.

Colour profiles are not applied: the network was trained without them, and COLMAP ignores them as well.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from disk.errors import ImageError, require
from disk.images.orientation import AS_STORED, is_orientation, to_stored, to_upright, turned, upright_size
from disk.progress import log
from disk.shapes import Bool, UInt8

MAX_PIXELS = 500_000_000  # above this a file is taken for a decompression bomb; 22,000 x 22,000 still passes
LARGE_PIXELS = 50_000_000  # decoding takes ten bytes a pixel
_large = threading.Lock()
_ORIENTATION, _TIFF_WIDTH, _TIFF_HEIGHT = 0x0112, 0x0100, 0x0101
_FEW_BITS = 4096  # 16-bit pixels that all lie below are most likely those of a 12-bit camera, not scaled
_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "PPM")


@dataclass(frozen=True)
class Upright:
    """An image as viewers show it.

    pixels: RGB. orientation: EXIF's, 1 to 8, which made it upright; 1: it is as stored.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    orientation: int

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) of the image as stored."""
        return upright_size(self.orientation, (self.pixels.shape[1], self.pixels.shape[0]))

    def turned(self, turns: int) -> Upright:
        """The image after quarter turns counter-clockwise; the stored one stays the same."""
        return Upright(np.ascontiguousarray(np.rot90(self.pixels, turns)), turned(self.orientation, turns))


def read_upright(path: Path) -> Upright:
    """An image for the network or to be looked at. Grey is repeated, 16 bits are scaled to 8, alpha is put on black.

    Raises ImageError for a file that is missing, damaged, no image, or larger than MAX_PIXELS.
    """
    return Upright(*_decode(path, _first_to_rgb))


def read_small(path: Path, side: int) -> UInt8[np.ndarray, "h w 3"]:
    """An image to be looked at, upright, its longer side at most `side` pixels; errors as for read_upright.

    JPEG is decoded at a fraction of its size, which takes a small part of the time.
    """
    pixels, _ = _decode(path, to_rgb, side)
    small = Image.fromarray(pixels)
    small.thumbnail((side, side), Image.Resampling.BOX, reducing_gap=None)
    return np.asarray(small)


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an image as stored, which coordinates refer to; otherwise as read_upright."""
    image = read_upright(path)
    return to_stored(image.pixels, image.orientation)


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an open image; 1 where there is none or it is not one."""
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # EXIF is written by all kinds of programs, and Pillow raises whatever it stumbles over
        return AS_STORED
    return value if is_orientation(value) else AS_STORED


def to_rgb(image: Image.Image, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of a loaded image of any mode; ImageError, by that name, for floats."""
    if _is_deep(image):
        grey = deep_to_uint8(np.asarray(image), name)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "La":  # alpha multiplied in
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        return np.array(Image.alpha_composite(black, rgba).convert("RGB"))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _first_to_rgb(image: Image.Image, name: str) -> UInt8[np.ndarray, "h w 3"]:
    count = _pictures(image)
    if count > 1:
        log.warning("%s holds %d pictures; the first is used", name, count)
    return to_rgb(image, name)


def _pictures(image: Image.Image) -> int:
    """The number of pictures in a file: pages, frames. A phone's depth and gain maps and previews do not count."""
    with contextlib.suppress(Exception):  # whatever is wrong behind the first one
        count = getattr(image, "n_frames", 1)
        if count > 1 and image.format == "MPO":
            with Image.open(image.filename) as another:  # type: ignore[attr-defined]
                another.seek(1)
                return count if another.size == image.size else 1
        return int(count)
    return 1


def read_mask(path: Path) -> tuple[Bool[np.ndarray, "h w"], int]:
    """A mask upright, and the EXIF orientation that made it so; errors as of read_upright, meaning as of to_mask."""
    return _decode(path, to_mask)


def to_mask(image: Image.Image, name: str) -> Bool[np.ndarray, "h w"]:
    """A loaded image as a mask: False where all channels, or alpha, are zero."""
    values = np.asarray(image) if image.mode in ("1", "L") or _is_deep(image) else to_rgb(image, name).max(axis=2)
    mask = np.not_equal(values, 0)
    if mask.all() and np.ptp(values):
        log.warning("%s has no pixel that is 0, so it masks nothing; its values begin at %d", name, values.min())
    return mask


def _decode(
    path: Path, convert: Callable[[Image.Image, str], np.ndarray], side: int | None = None
) -> tuple[np.ndarray, int]:
    """Rows and columns upright, and the EXIF orientation that made them so. side: enough pixels, if that is faster."""
    with _open(path) as image:
        if side is not None:
            image.draft(None, (side, side))
        is_upright = isinstance(image, TiffImageFile)  # Pillow turns these, and no others, while it loads them
        orientation = orientation_of(image) if is_upright else AS_STORED
        decode(image, str(path))
        pixels = convert(image, str(path))
        if not is_upright:
            orientation = orientation_of(image)
            pixels = to_upright(pixels, orientation)
        return pixels, orientation


@contextlib.contextmanager
def one_large_at_a_time(path: Path) -> Iterator[None]:
    """Wait while another thread works on an image of more than LARGE_PIXELS, if this is one too."""
    width, height = image_size(path)
    with _large if width * height > LARGE_PIXELS else contextlib.nullcontext():
        yield


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels of the image as stored, from the header alone; ImageError as for read_image."""
    with _open(path) as image:
        if isinstance(image, TiffImageFile):  # Pillow gives the size it will have upright
            return image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
        return image.size


def image_orientation(path: Path) -> int:
    """The EXIF orientation of a file, 1 where it has none, from the header alone; ImageError as for read_image."""
    with _open(path) as image:
        return orientation_of(image)


def exif_directory(path: Path, tag: int) -> dict[int, Any]:
    """The tags of one directory of a file's EXIF, such as 0x8825 for GPS, from the header alone; {} where none can be
    read. ImageError as for read_image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged tags
        with _open(path) as image:
            if image.format == "PNG" and "exif" not in image.info:
                return {}  # Pillow would decode all pixels to look for it behind them
            try:
                return dict(image.getexif().get_ifd(tag))
            except Exception:  # as in orientation_of
                return {}


def _open(path: Path) -> Image.Image:
    path = Path(path)
    formats = list(_FORMATS)
    if path.suffix.lower() in (".heic", ".heif"):
        require("pillow_heif")
        from pillow_heif import register_heif_opener

        register_heif_opener()
        formats.append("HEIF")
    # our own limit below takes the place of Pillow's, which stops short of large aerial images
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    if path.exists() and not path.is_file():
        raise ImageError(f"{path} cannot be read: it is not a file")
    try:
        image = Image.open(path, formats=formats)
    except FileNotFoundError:
        raise ImageError(f"no file {path}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not an image that can be read, or is damaged") from None
    except Image.DecompressionBombError:
        raise _bomb(path) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise _bomb(path)
    return image


def decode(image: Image.Image, name: str) -> None:
    """Decode an open image now; ImageError, by that name, if it is damaged."""
    # Pillow's plugins raise whatever their parsers stumble over when a file is damaged
    try:
        with _read_into_memory(image):
            image.load()
    except MemoryError:
        raise ImageError(f"{name} ({image.width} x {image.height}) does not fit into memory") from None
    except Exception as error:
        raise ImageError(f"{name} is damaged: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def _read_into_memory(image: Image.Image) -> Iterator[None]:
    """Keep Pillow from mapping a grey TIFF into memory: it takes the upright size for that of the file, and garbles it.

    Pillow maps files that it knows the name of.
    """
    if not isinstance(image, TiffImageFile):
        yield
        return
    name, image.filename = image.filename, ""
    try:
        yield
    finally:
        image.filename = name


def _bomb(path: Path) -> ImageError:
    return ImageError(f"{path} would decode to more than {MAX_PIXELS // 10**6} million pixels; make it smaller")


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def deep_to_uint8(values: np.ndarray, name: str) -> np.ndarray:
    """16-bit grey, which Pillow gives as 16 or 32-bit integers, to 8 bits; ImageError, by that name, for others."""
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{name} has {values.dtype} pixels; save it with 8 or 16 bits")
    if 0 < values.max() < _FEW_BITS:
        log.warning(
            "%s is nearly black: its 16-bit values end at %d of 65535; scale them up if they count fewer bits",
            name, values.max(),
        )  # fmt: skip
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
