"""Decoding image files to 8-bit RGB, upright by EXIF orientation or as stored.

Ignores colour profiles: the network was trained without them, and COLMAP ignores them too.
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

MAX_PIXELS = 500_000_000  # a larger file counts as a decompression bomb; 22,000 x 22,000 still passes
LARGE_PIXELS = 50_000_000  # decoding takes ten bytes per pixel
_large = threading.Lock()
_ORIENTATION, _TIFF_WIDTH, _TIFF_HEIGHT = 0x0112, 0x0100, 0x0101
_FEW_BITS = 4096  # 16-bit pixels all below this most likely come unscaled from a 12-bit camera
_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "PPM")


@dataclass(frozen=True)
class Upright:
    """An image as viewers show it.

    pixels: RGB
    orientation: the EXIF orientation, 1 to 8, that made it upright; 1: as stored
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    orientation: int

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) of the image as stored."""
        return upright_size(self.orientation, (self.pixels.shape[1], self.pixels.shape[0]))

    def turned(self, turns: int) -> Upright:
        """The image after quarter turns counter-clockwise; the stored image stays the same."""
        return Upright(np.ascontiguousarray(np.rot90(self.pixels, turns)), turned(self.orientation, turns))


def read_upright(path: Path) -> Upright:
    """Read an image upright, for the network or for display.

    Repeats grey to RGB, scales 16 bits to 8, composites alpha over black.

    Raises ImageError if the file is missing, damaged, not an image, or larger than MAX_PIXELS.
    """
    return Upright(*_decode(path, _first_to_rgb))


def read_small(path: Path, side: int) -> UInt8[np.ndarray, "h w 3"]:
    """Read an image upright for display, its long side at most `side` pixels.

    Decodes JPEG at a fraction of its size, in a fraction of the time.

    Raises ImageError as `read_upright` does.
    """
    pixels, _ = _decode(path, to_rgb, side)
    small = Image.fromarray(pixels)
    small.thumbnail((side, side), Image.Resampling.BOX, reducing_gap=None)
    return np.asarray(small)


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an image as stored, to which coordinates refer; otherwise as `read_upright`."""
    image = read_upright(path)
    return to_stored(image.pixels, image.orientation)


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an open image; 1 if it has none or an invalid one."""
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # many programs write broken EXIF, on which Pillow raises exceptions of all types
        return AS_STORED
    return value if is_orientation(value) else AS_STORED


def to_rgb(image: Image.Image, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """The RGB pixels of a loaded image of any mode; ImageError with that name for floats."""
    if _is_deep(image):
        grey = deep_to_uint8(np.asarray(image), name)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "La":  # premultiplied alpha
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
    """The number of pictures in a file: pages or frames, without a phone's depth maps, gain maps and previews."""
    with contextlib.suppress(Exception):  # the file may be damaged after the first picture
        count = getattr(image, "n_frames", 1)
        if count > 1 and image.format == "MPO":
            with Image.open(image.filename) as another:  # type: ignore[attr-defined]
                another.seek(1)
                return count if another.size == image.size else 1
        return int(count)
    return 1


def read_mask(path: Path) -> tuple[Bool[np.ndarray, "h w"], int]:
    """Read a mask upright, as `to_mask` defines it, and the EXIF orientation that made it so.

    Raises ImageError as `read_upright` does.
    """
    return _decode(path, to_mask)


def to_mask(image: Image.Image, name: str) -> Bool[np.ndarray, "h w"]:
    """Convert a loaded image to a mask: False where all channels, or alpha, are 0."""
    values = np.asarray(image) if image.mode in ("1", "L") or _is_deep(image) else to_rgb(image, name).max(axis=2)
    mask = np.not_equal(values, 0)
    if mask.all() and np.ptp(values):
        log.warning("%s has no pixel that is 0, so it masks nothing; its smallest value is %d", name, values.min())
    return mask


def _decode(
    path: Path, convert: Callable[[Image.Image, str], np.ndarray], side: int | None = None
) -> tuple[np.ndarray, int]:
    """Pixels upright, and the EXIF orientation that made them so.

    side: decode at a smaller size of at least this many pixels if that is faster
    """
    with _open(path) as image:
        if side is not None:
            image.draft(None, (side, side))
        is_upright = isinstance(image, TiffImageFile)  # Pillow turns only TIFF upright on loading
        orientation = orientation_of(image) if is_upright else AS_STORED
        decode(image, str(path))
        pixels = convert(image, str(path))
        if not is_upright:
            orientation = orientation_of(image)
            pixels = to_upright(pixels, orientation)
        return pixels, orientation


@contextlib.contextmanager
def one_large_at_a_time(path: Path) -> Iterator[None]:
    """If the image has more than LARGE_PIXELS, wait until no other thread works on such an image."""
    width, height = image_size(path)
    with _large if width * height > LARGE_PIXELS else contextlib.nullcontext():
        yield


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels of the image as stored, from the header alone; ImageError as for `read_image`."""
    with _open(path) as image:
        if isinstance(image, TiffImageFile):  # Pillow reports the upright size
            return image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
        return image.size


def image_orientation(path: Path) -> int:
    """The EXIF orientation of a file, 1 if it has none, from the header alone; ImageError as for `read_image`."""
    with _open(path) as image:
        return orientation_of(image)


def exif_directory(path: Path, tag: int) -> dict[int, Any]:
    """The tags of one EXIF directory of a file, such as 0x8825 for GPS, from the header alone; {} if unreadable.

    Raises ImageError as `read_image` does.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged tags
        with _open(path) as image:
            if image.format == "PNG" and "exif" not in image.info:
                return {}  # Pillow would decode all pixels to look for EXIF after them
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
    # our limit below replaces Pillow's, which refuses large aerial images
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
    """Decode an open image; ImageError with that name if it is damaged."""
    # on damaged files, Pillow's parsers raise exceptions of all types
    try:
        with _read_into_memory(image):
            image.load()
    except MemoryError:
        raise ImageError(f"{name} ({image.width} x {image.height}) does not fit into memory") from None
    except Exception as error:
        raise ImageError(f"{name} is damaged: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def _read_into_memory(image: Image.Image) -> Iterator[None]:
    """Keep Pillow from memory-mapping a grey TIFF, which it garbles by taking the upright size for the stored size.

    Pillow maps only files whose name it knows.
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
    """Convert 16-bit grey, which Pillow gives as 16 or 32-bit integers, to 8 bits; ImageError for other values.

    name: of the image, for messages
    """
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{name} has {values.dtype} pixels; save it with 8 or 16 bits")
    if 0 < values.max() < _FEW_BITS:
        log.warning(
            "%s is nearly black: its largest 16-bit value is %d of 65535; scale it up if it holds fewer bits",
            name, values.max(),
        )  # fmt: skip
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
