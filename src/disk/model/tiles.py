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
        return whole[(..., *(slice(s.start // stride, s.stop // stride) for s in self.seen))]

    def trim(self, part: Tensor) -> Tensor:
        """Its own rows and columns of a map (..., h, w) of what it sees, at any resolution."""
        stride = (self.seen[1].stop - self.seen[1].start) // part.shape[-1]
        pairs = zip(self.own, self.seen, strict=True)
        return part[(..., *(slice((o.start - s.start) // stride, (o.stop - s.start) // stride) for o, s in pairs))]

    def owns(self, points: Int[Tensor, "k 2"]) -> Bool[Tensor, " k"]:
        """Which pixels (x, y) of the image are its own."""
        rows, columns = self.own
        x, y = points.unbind(1)
        return (x >= columns.start) & (x < columns.stop) & (y >= rows.start) & (y < rows.stop)

    def put(self, part: Tensor, whole: Tensor, stride: int) -> None:
        """Write its own rows and columns of a map of what it sees into that of the image."""
        whole[(..., *(slice(o.start // stride, o.stop // stride) for o in self.own))] = self.trim(part)


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
