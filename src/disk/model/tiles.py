"""Cutting an image into tiles that overlap by as much as their results depend on."""

from __future__ import annotations

from dataclasses import dataclass

from disk.blocks import blocks
from disk.model.unet import STRIDE
from disk.shapes import Bool, Int, Tensor

# How far from a pixel of the heatmap the network looks, where the map at an eighth of the resolution is known:
# through two up blocks and the last one, and through the skip connection at a quarter. A convolution looks 2 pixels
# further at its resolution, an upsampling 1 at the resolution it begins with: 2 + 2 (1 + 2 + 2 (1 + 2)), then
# 2 x 4 for the convolution to a quarter, 2 x 2 for that to a half, and 2 for the first.
_REACH = 34


@dataclass(frozen=True)
class Tile:
    """A part of an image; all bounds are in pixels and multiples of 16.

    own: its rows and columns, which no other tile has. seen: those it has to be computed from.
    """

    own: tuple[slice, slice]
    seen: tuple[slice, slice]

    @property
    def corner(self) -> tuple[int, int]:
        """(x, y) of the top-left pixel that it sees."""
        return self.seen[1].start, self.seen[0].start

    def crop(self, whole: Tensor, stride: int = 1) -> Tensor:
        """What the tile sees of a map (..., H, W) of the image at one `stride`th of its resolution."""
        return _part(whole, self.seen, (0, 0), stride)

    def trim(self, part: Tensor) -> Tensor:
        """Its own rows and columns of a map (..., h, w) of what it sees, at any resolution."""
        rows, columns = self.seen
        return _part(part, self.own, (rows.start, columns.start), (columns.stop - columns.start) // part.shape[-1])

    def owns(self, points: Int[Tensor, "k 2"]) -> Bool[Tensor, " k"]:
        """Which pixels (x, y) of the image are its own."""
        rows, columns = self.own
        x, y = points.unbind(1)
        return (x >= columns.start) & (x < columns.stop) & (y >= rows.start) & (y < rows.stop)

    def put(self, part: Tensor, whole: Tensor, stride: int) -> None:
        """Write its own rows and columns of a map of what it sees into that of the image."""
        _part(whole, self.own, (0, 0), stride).copy_(self.trim(part))


def _part(x: Tensor, bounds: tuple[slice, slice], origin: tuple[int, int], stride: int) -> Tensor:
    """Rows and columns, in pixels, of a map (..., H, W) at one `stride`th of the resolution that begins at `origin`."""
    top, bottom, left, right = (
        (edge - first) // stride
        for bound, first in zip(bounds, origin, strict=True)
        for edge in (bound.start, bound.stop)
    )
    return x[..., top:bottom, left:right]


def cut(height: int, width: int, side: int, window: int) -> list[Tile]:
    """Tiles of an image, row by row, of at most `side` pixels each way; all numbers but `window` are multiples of 16.

    window: side of the non-maximum suppression window, which looks beyond a tile's own pixels too.
    """
    # one more for the neighbours that a subpixel peak lies between
    overlap = -(-(_REACH + window // 2 + 1) // STRIDE) * STRIDE
    rows, columns = (_parts(size, side, overlap) for size in (height, width))
    return [Tile((row, column), (seen_row, seen_column)) for row, seen_row in rows for column, seen_column in columns]


def _parts(size: int, side: int, overlap: int) -> list[tuple[slice, slice]]:
    """What tiles have and see along an axis; nearly equal, so that the last is no sliver."""
    step = -(-size // (-(-size // side) * STRIDE)) * STRIDE
    return [(own, slice(max(own.start - overlap, 0), min(own.stop + overlap, size))) for own in blocks(size, step)]
