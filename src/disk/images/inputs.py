"""Images as users pass them, to pixels for the network: files, PIL images, arrays, tensors, and lists of these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from disk.errors import ImageError
from disk.images.orientation import AS_STORED, to_upright
from disk.images.reading import decode, deep_to_uint8, orientation_of, read_upright, to_rgb
from disk.images.resizing import Placement
from disk.shapes import Float, Tensor, UInt8

ImageLike: TypeAlias = str | PathLike[str] | Image.Image | np.ndarray | Tensor

# interpolation overshoots 0 and 1 by up to a third; ranges -1 to 1 and 0 to 255 and normalised values exceed that
_LOWEST, _HIGHEST = -0.5, 1.5
_WANTED = (
    "pass a path, a PIL image, an array (H, W, 3) or (H, W) or a tensor (3, H, W) or (1, H, W), "
    "of uint8 or of floats from 0 to 1, or a batch or list of these"
)


@dataclass(frozen=True)
class Pixels:
    """One image for the network.

    pixels: RGB, upright; uint8, or floats from 0 to 1; on the device of the input
    orientation: the EXIF orientation that made them upright; 1 except for files and PIL images with that tag
    """

    pixels: UInt8[Tensor, "3 h w"] | Float[Tensor, "3 h w"]
    orientation: int = AS_STORED

    @property
    def placement(self) -> Placement:
        """The placement without resizing: its `to_original` gives pixels of the image as passed."""
        height, width = self.pixels.shape[1:]
        return Placement(width, height, 1.0, 1.0, self.orientation)


def as_pixels(image: Any) -> tuple[list[Pixels], bool]:
    """Read one image or several, as the commands read files; also returns whether it was a single image.

    Accepts paths; PIL images of all modes; arrays (H, W), (H, W, 1), (H, W, 3), (H, W, 4) or batches (B, H, W, C);
    tensors (H, W), (1, H, W), (3, H, W) or batches (B, C, H, W); lists and tuples of these. Values are uint8, uint16,
    bool, or floats from 0 to 1. Repeats grey to RGB, scales 16 bits to 8, composites alpha over black.

    Raises ImageError for anything else.
    """
    if isinstance(image, list | tuple):
        found = []
        for item in image:
            pixels, single = as_pixels(item)
            if not single:
                raise ImageError(f"a list holds single images, not {_describe(item)}: {_WANTED}")
            found += pixels
        return found, False
    if isinstance(image, str | PathLike):
        upright = read_upright(Path(image))
        return [Pixels(_from_rows(upright.pixels), upright.orientation)], True
    if isinstance(image, Image.Image):
        return [_from_pil(image)], True
    if isinstance(image, Tensor):
        if image.is_meta or image.layout != torch.strided:
            raise ImageError(f"cannot use {_describe(image)} without values, or a sparse one, as an image: {_WANTED}")
        image = image.detach()
        # a batch at once, because each look at the values waits for a GPU; a batch that fails is checked by image
        checked = image.ndim == 4 and image.is_floating_point() and 0 not in image.shape and _in_range(*_range(image))
        return _split(image, partial(_from_tensor, checked=checked))
    if isinstance(image, np.ndarray) or hasattr(image, "__array__"):
        return _split(np.asarray(image), _from_array)
    raise ImageError(f"cannot use {_describe(image)} as an image: {_WANTED}")


def _split(values: Any, read: Callable[[Any], Pixels]) -> tuple[list[Pixels], bool]:
    if 0 in values.shape:
        raise ImageError(f"{_describe(values)} is empty: {_WANTED}")
    if values.ndim == 4:
        return [read(one) for one in values], False
    return [read(values)], True


def _from_pil(image: Image.Image) -> Pixels:
    name = str(getattr(image, "filename", "")) or "the image"
    decode(image, name)
    if 0 in image.size:
        raise ImageError(f"{_describe(image)} is empty: {_WANTED}")
    orientation = orientation_of(image)
    return Pixels(_from_rows(to_upright(to_rgb(image, name), orientation)), orientation)


def _from_array(array: np.ndarray) -> Pixels:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4):
        channels_first = array.ndim == 3 and array.shape[0] in (1, 3)
        hint = "; its channels come first, so make it a tensor, or .transpose(1, 2, 0)" if channels_first else ""
        raise ImageError(f"cannot use {_describe(array)} as an image{hint}: {_WANTED}")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind == "f":
        array = array.astype(np.float64) if array.dtype.itemsize > 8 else array.copy()
        array = array[:, :, None] if array.ndim == 2 else array
        if channels == 4:
            _check_range(torch.from_numpy(array), array)
            array = array[:, :, :3] * array[:, :, 3:]
        return _from_floats(torch.from_numpy(array).permute(2, 0, 1), array)
    return Pixels(_from_rows(_integers_to_rgb(array)))


def _integers_to_rgb(array: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    grey = array.ndim == 2 or array.shape[2] == 1
    if grey:
        array = array.reshape(array.shape[:2])
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        # truncate colour to 8 bits, as Pillow does for files; round grey
        array = deep_to_uint8(array, "the array") if grey else (array >> 8).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"cannot use {_describe(array)} as an image: {_WANTED}")
    return to_rgb(Image.fromarray(np.ascontiguousarray(array)), "the array")


def _from_tensor(tensor: Tensor, checked: bool) -> Pixels:
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        channels_last = tensor.ndim == 3 and tensor.shape[2] in (1, 3, 4)
        hint = "; its channels come last, so make it an array, or .permute(2, 0, 1)" if channels_last else ""
        raise ImageError(f"cannot use {_describe(tensor)} as an image{hint}: {_WANTED}")
    if tensor.is_floating_point():
        return Pixels(tensor.expand(3, -1, -1)) if checked else _from_floats(tensor, tensor)
    if tensor.dtype == torch.uint8:
        return Pixels(tensor.expand(3, -1, -1))
    if tensor.dtype in (torch.bool, torch.uint16):
        return Pixels(_from_rows(_integers_to_rgb(tensor.permute(1, 2, 0).cpu().numpy())).to(tensor.device))
    raise ImageError(f"cannot use {_describe(tensor)} as an image: {_WANTED}")


def _from_floats(pixels: Tensor, given: Any) -> Pixels:
    _check_range(pixels, given)
    return Pixels(pixels.expand(3, -1, -1))


def _check_range(values: Tensor, given: Any) -> None:
    low, high = _range(values)
    if not _in_range(low, high):
        hint = "; divide by 255" if low >= 0 and high <= 255 else ""
        raise ImageError(
            f"{_describe(given)} has values from {low:.4g} to {high:.4g}, not from 0 to 1{hint}: {_WANTED}"
        )


def _range(values: Tensor) -> tuple[float, float]:
    low, high = torch.stack(torch.aminmax(values)).tolist()  # one copy from a GPU
    return low, high


def _in_range(low: float, high: float) -> bool:
    return low >= _LOWEST and high <= _HIGHEST  # False for nan


def _from_rows(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "3 h w"]:
    return torch.from_numpy(image).permute(2, 0, 1)


def _describe(image: Any) -> str:
    if isinstance(image, Image.Image):
        return f"a PIL image {image.mode} {image.size[0]} x {image.size[1]}"
    if isinstance(image, np.ndarray | Tensor):
        kind = "a tensor" if isinstance(image, Tensor) else "an array"
        return f"{kind} {str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}"
    return f"{type(image).__name__} {str(image)[:40]!r}"
