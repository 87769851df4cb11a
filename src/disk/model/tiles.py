"""Cutting an image into tiles that overlap by as much as their results need."""

from __future__ import annotations

from dataclasses import dataclass

from disk.blocks import blocks
from disk.model.unet import STRIDE
from disk.shapes import Bool, Int, Tensor

# The reach of the network around a pixel of the heatmap, in pixels, given the map at 1/8 resolution: through the last
# block, two up blocks and the skip connection at 1/4. Each convolution adds 2 pixels at its resolution, each upsampling
# 1 pixel at its input resolution: 2 + 2 (1 + 2 + 2 (1 + 2)), then 2 x 4 for the convolution at 1/4, 2 x 2 for that at
# 1/2, and 2 for the first one.
_REACH = 34


@dataclass(frozen=True)
class Tile:
    """A part of an image; all bounds are in pixels and multiples of 16.

    own: rows and columns that belong to this tile alone
    seen: rows and columns needed to compute them
    """

    own: tuple[slice, slice]
    seen: tuple[slice, slice]

    @property
    def corner(self) -> tuple[int, int]:
        """(x, y) of the top-left pixel that the tile sees."""
        return self.seen[1].start, self.seen[0].start

    def crop(self, whole: Tensor, stride: int = 1) -> Tensor:
        """The part of the whole map (..., H, W), at 1/`stride` resolution, that the tile sees."""
        return _part(whole, self.seen, (0, 0), stride)

    def trim(self, part: Tensor) -> Tensor:
        """The tile's own rows and columns of a map (..., h, w) of what it sees, at any resolution."""
        rows, columns = self.seen
        return _part(part, self.own, (rows.start, columns.start), (columns.stop - columns.start) // part.shape[-1])

    def owns(self, points: Int[Tensor, "k 2"]) -> Bool[Tensor, " k"]:
        """Whether each pixel (x, y) of the image is the tile's own."""
        rows, columns = self.own
        x, y = points.unbind(1)
        return (x >= columns.start) & (x < columns.stop) & (y >= rows.start) & (y < rows.stop)

    def put(self, part: Tensor, whole: Tensor, stride: int) -> None:
        """Copy the tile's own rows and columns from a map of what it sees into the whole map."""
        _part(whole, self.own, (0, 0), stride).copy_(self.trim(part))


def _part(x: Tensor, bounds: tuple[slice, slice], origin: tuple[int, int], stride: int) -> Tensor:
    """Rows and columns, in pixels, of a map (..., H, W) that begins at `origin` and has 1/`stride` resolution."""
    top, bottom, left, right = (
        (edge - first) // stride
        for bound, first in zip(bounds, origin, strict=True)
        for edge in (bound.start, bound.stop)
    )
    return x[..., top:bottom, left:right]


def cut(height: int, width: int, side: int, window: int) -> list[Tile]:
    """Cut an image into tiles, row by row.

    height, width: of the image in pixels, multiples of 16
    side: largest side in pixels of a tile's own part, a multiple of 16
    window: side of the non-maximum suppression window, which reads pixels beyond a tile's own too
    """
    # one more for the neighbours that a subpixel peak is computed from
    overlap = -(-(_REACH + window // 2 + 1) // STRIDE) * STRIDE
    rows, columns = (_parts(size, side, overlap) for size in (height, width))
    return [Tile((row, column), (seen_row, seen_column)) for row, seen_row in rows for column, seen_column in columns]


def _parts(size: int, side: int, overlap: int) -> list[tuple[slice, slice]]:
    """The own and seen parts of tiles along an axis, nearly equal in size, so that the last one is not a sliver."""
    step = -(-size // (-(-size // side) * STRIDE)) * STRIDE
    return [(own, slice(max(own.start - overlap, 0), min(own.stop + overlap, size))) for own in blocks(size, step)]
