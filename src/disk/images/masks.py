"""Masks: images that are 0 where no keypoint may be.

A mask has the layout of its image as stored. It has the upright layout if its EXIF orientation turns it upright, or if
its size fits only the upright image. The mask of image.jpg is image.jpg.png, as in COLMAP, or image.png.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image

from disk.errors import ImageError
from disk.images.listing import ImageFile, named, text_of, walk
from disk.images.orientation import AS_STORED, to_upright
from disk.images.reading import decode, orientation_of, read_mask, to_mask
from disk.images.resizing import Placement
from disk.progress import counted, log
from disk.shapes import Bool, Tensor


def find_masks(folder: Path, files: Sequence[ImageFile]) -> dict[str, Path]:
    """The masks in a folder by image name; logs images without a mask and files that are the mask of no image.

    Ignores the case of extensions.

    Raises ImageError if the folder does not exist, or if no image has a mask.
    """
    if not folder.is_dir():
        raise ImageError(f"mask folder {folder} {'is a file' if folder.exists() else 'does not exist'}")
    there: dict[str, list[Path]] = defaultdict(list)
    for path in walk(folder):
        there[_lower_extensions(text_of(path.relative_to(folder)))].append(path)
    masks: dict[str, Path] = {}
    for file in files:
        wanted = [f"{file.relative}.png", f"{file.name}.png"]  # COLMAP's name first
        found = [path for name in wanted for path in sorted(there.get(_lower_extensions(name), []))]
        found = [path for path in found if not path.samefile(file.path)]
        if found:
            masks[file.name] = found[0]
    missing = [file.relative for file in files if file.name not in masks]
    if files and not masks:
        first = files[0]
        raise ImageError(
            f"no image has a mask in {folder}: for {first.relative}, name it {first.relative}.png or {first.name}.png"
        )
    if missing:
        log.warning(
            "no mask in %s for %d of %d images (used as a whole): %s", folder, len(missing), len(files), named(missing)
        )
    images = {file.path.resolve() for file in files}
    used = {path.resolve() for path in masks.values()} | images
    unused = [
        text_of(path.relative_to(folder)) for paths in there.values() for path in paths if path.resolve() not in used
    ]
    if unused:
        log.warning("%s in %s without an image: %s", counted(len(unused), "file"), folder, named(sorted(unused)))
    return masks


def mask_digest(path: Path | None) -> str:
    """A digest of a mask file, which tells whether features were found with the same mask; empty for no mask."""
    return "" if path is None else hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def load_mask(mask: Any, placement: Placement) -> Bool[Tensor, "h w"]:
    """A mask resampled to the pixels of a placed image, False where it is 0.

    mask: a path, PIL image, array (H, W) or (H, W, C), or tensor (H, W) or (C, H, W)
    placement: of the image, without the padding

    Raises ImageError if the mask cannot be read, or if its size differs from that of the image.
    """
    seen, orientation, name = _read(mask)
    width, height = placement.original_size
    shapes = [(height, width), to_upright(np.empty((height, width, 0)), placement.orientation).shape[:2]]
    if orientation == AS_STORED and seen.shape == shapes[0]:
        seen = to_upright(seen, placement.orientation)
    elif seen.shape != shapes[1]:
        rows, columns = seen.shape
        raise ImageError(f"{name} is {columns} x {rows}, its image {width} x {height}; make them the same size")
    if not seen.any():
        log.warning("%s is 0 everywhere: its image has no keypoints", name)
    x = (np.arange(placement.width) + 0.5) / placement.scale_x - 0.5
    y = (np.arange(placement.height) + 0.5) / placement.scale_y - 0.5
    columns = np.rint(x).astype(int).clip(0, seen.shape[1] - 1)
    rows = np.rint(y).astype(int).clip(0, seen.shape[0] - 1)
    return torch.from_numpy(seen[np.ix_(rows, columns)])


def _read(mask: Any) -> tuple[Bool[np.ndarray, "h w"], int, str]:
    """A mask of any type, the orientation applied to it, and its name for messages."""
    if isinstance(mask, str | PathLike):
        return *read_mask(Path(mask)), f"mask {mask}"
    if isinstance(mask, Image.Image):
        decode(mask, "a mask")
        orientation = orientation_of(mask)
        return to_upright(to_mask(mask, "a mask"), orientation), orientation, "a mask"
    channels = 0 if isinstance(mask, Tensor) else -1
    array = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if array.ndim == 3:
        array = np.asarray(array.any(axis=channels))
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise ImageError(
            f"cannot use {array.dtype} {array.shape} as a mask: pass a path, a PIL image or an array (H, W)"
        )
    return array != 0, AS_STORED, "a mask"


def _lower_extensions(name: str) -> str:
    """A mask's path with both extensions, the image's and its own, in lower case."""
    path = PurePosixPath(name)
    inner = PurePosixPath(path.stem)
    return (path.parent / f"{inner.stem}{inner.suffix.lower()}{path.suffix.lower()}").as_posix()
