"""Thumbnails of photos, small enough that hundreds fit into one page."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from disk.ahead import map_ahead
from disk.devices import usable_cores
from disk.errors import ImageError
from disk.images.listing import named
from disk.images.reading import one_large_at_a_time, read_small
from disk.progress import log, track

SIDE = 400  # pixels, the longer side
SMALLEST = 48
TOTAL = 18_000_000  # bytes of all thumbnails together
_SHRINK = 0.75
_QUALITY = 75


def make_thumbnails(photos: Mapping[str, Path]) -> dict[str, bytes]:
    """Upright JPEG thumbnails by name, each with an equal share of TOTAL bytes; skips photos that cannot be read."""
    share = TOTAL // max(1, len(photos))

    def small(path: Path) -> bytes | ImageError:
        try:
            with one_large_at_a_time(path):
                return thumbnail(path, share)
        except ImageError as error:
            return error

    workers = usable_cores()
    made = map_ahead(small, photos.values(), workers, 2 * workers)
    results = dict(zip(photos, track(made, "thumbnails", "photo", len(photos)), strict=True))
    missing = [name for name, result in results.items() if isinstance(result, ImageError)]
    if missing:
        log.warning("photos that cannot be shown: %s", named(missing))
    return {name: result for name, result in results.items() if isinstance(result, bytes)}


def thumbnail(path: Path, most: int) -> bytes:
    """A JPEG of at most `most` bytes, or of SMALLEST pixels if that takes more; ImageError for an unreadable file."""
    image = Image.fromarray(read_small(path, SIDE))
    while True:
        content = io.BytesIO()
        image.save(content, "JPEG", quality=_QUALITY)
        if content.tell() <= most or max(image.size) <= SMALLEST:
            return content.getvalue()
        image.thumbnail((int(_SHRINK * image.width) + 1, int(_SHRINK * image.height) + 1), Image.Resampling.LANCZOS)
