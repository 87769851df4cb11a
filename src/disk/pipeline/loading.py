"""Decoding images ahead of the network in threads, and batching images of equal shape."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from disk.ahead import map_ahead
from disk.errors import DiskError, ImageError
from disk.images.listing import ImageFile
from disk.images.masks import load_mask, mask_digest
from disk.images.reading import LARGE_PIXELS, image_size, one_large_at_a_time, read_upright
from disk.images.resizing import fit, place
from disk.model.canvas import Canvas, pad_to_stride
from disk.progress import log


@dataclass(frozen=True)
class Loaded:
    """A decoded image, ready for the network.

    mask: the digest of its mask file; '' without a mask
    """

    file: ImageFile
    canvas: Canvas
    mask: str


def load_ahead(
    files: list[ImageFile],
    load: Callable[[ImageFile], Loaded],
    workers: int,
    ahead: int,
    failed: dict[str, str],
    is_large: Callable[[ImageFile], bool],
) -> Iterator[Loaded]:
    """Yield images in order, decoded in threads at most `ahead` images early; record failures in `failed`.

    Large images are decoded only when it is their turn, because the network needs the memory.
    """

    def attempt(file: ImageFile, is_next: bool) -> Loaded | DiskError | None:
        try:
            return None if is_large(file) and not is_next else load(file)
        except DiskError as error:
            return error

    with contextlib.closing(map_ahead(lambda file: attempt(file, False), files, workers, ahead)) as early:
        for file in files:
            loaded = next(early)
            if loaded is None:
                loaded = attempt(file, True)
            if isinstance(loaded, Loaded):
                yield loaded
            else:
                failed[file.relative] = str(loaded)
                log.warning("%s", loaded)
            del loaded  # so that a decoded image is freed with its batch


def is_large(file: ImageFile, max_size: int, height: int | None, width: int | None) -> bool:
    """Whether an image has more than LARGE_PIXELS after resizing. Raises ImageError if it cannot be read."""
    placement = fit(image_size(file.path), max_size, height, width)
    return placement.width * placement.height > LARGE_PIXELS


def load_image(
    file: ImageFile, max_size: int, height: int | None, width: int | None, masks: Mapping[str, Path], turns: int = 0
) -> Loaded:
    """Decode, resize and pad an image and its mask, if it has one.

    max_size, height, width: as in DetectionOptions, in pixels
    masks: mask files by image name
    turns: quarter turns counter-clockwise, applied to the upright image

    Raises ImageError if the image or its mask cannot be used.
    """
    try:
        with one_large_at_a_time(file.path):
            image = read_upright(file.path).turned(turns)
            canvas, placement = place(image.pixels, max_size, height, width, image.orientation)
            size = image.stored_size
            del image
            path = masks.get(file.name)
            mask = None if path is None else load_mask(path, placement)
            digest = mask_digest(path)
    except MemoryError:
        raise ImageError(f"{file.path} does not fit into memory") from None
    # padded here, to keep this work off the network's thread
    pixels = pad_to_stride(torch.from_numpy(np.array(canvas.transpose(2, 0, 1))))
    return Loaded(file, Canvas(pixels, placement, size, mask), digest)


def equal_shapes(images: Iterator[Loaded], batch_size: int) -> Generator[list[Loaded], None, None]:
    """Batch images with equal canvases, large ones alone; holds back at most two batches of images."""
    waiting: dict[tuple[int, ...], list[Loaded]] = {}
    for image in images:
        if image.canvas.pixels[0].numel() > LARGE_PIXELS:
            yield [image]
            continue
        batch = waiting.setdefault(tuple(image.canvas.pixels.shape), [])
        batch.append(image)
        if len(batch) < batch_size and sum(map(len, waiting.values())) < 2 * batch_size:
            continue
        largest = max(waiting, key=lambda shape: len(waiting[shape]))
        yield waiting.pop(largest)
    yield from waiting.values()
