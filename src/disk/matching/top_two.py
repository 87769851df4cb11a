"""The two largest similarities of each descriptor, for one pair of images in tiles or for a batch of pairs at once.

On a CPU it works in tiles that stay in the cache; on a GPU with plain operations on a batch of matrices, or, with
Triton, with a kernel that never writes the matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from disk.products import multiply
from disk.shapes import Bool, Float, Int, Tensor
from disk.workers import share

_LANES = 32
# fewer similarities than this are not worth a second thread
_WORTH_THREADS = 1024**2


@dataclass
class TopTwo:
    """For each descriptor: the largest and second largest similarity, and the index of the largest.

    Missing similarities are minus infinity. After a tie the index may be that of either. Descriptors of both images of
    a pair are numbered consecutively: those of the second image follow those of the first.
    """

    top: Float[Tensor, "*b n"]
    second: Float[Tensor, "*b n"]
    index: Int[Tensor, "*b n"]

    @staticmethod
    def start(n: int, device: torch.device) -> TopTwo:
        """The state before any similarity has been seen."""
        nothing = torch.full((n,), -math.inf, dtype=torch.float32, device=device)
        return TopTwo(nothing, nothing.clone(), torch.zeros(n, dtype=torch.int64, device=device))

    @staticmethod
    def of_both(rows: TopTwo, columns: TopTwo) -> TopTwo:
        """Combine the results of the rows and the columns into one for both images."""
        n = rows.top.shape[-1]
        return TopTwo(
            torch.cat([rows.top, columns.top], -1),
            torch.cat([rows.second, columns.second], -1),
            torch.cat([rows.index + n, columns.index], -1),
        )

    def update(self, start: int, tile: TopTwo, offset: int) -> None:
        """Merge the result of a tile: its first descriptor is number `start`, its first neighbour number `offset`."""
        part = slice(start, start + len(tile.top))
        top, second = self.top[part], self.second[part]
        index = torch.where(tile.top > top, tile.index + offset, self.index[part])
        loser = torch.minimum(tile.top, top)
        self.second[part] = torch.maximum(loser, torch.maximum(tile.second, second))
        self.top[part] = torch.maximum(tile.top, top)
        self.index[part] = index

    def margin(self, ratio: float | None) -> Float[Tensor, "*b n"]:
        """How much similarities must change to change the nearest neighbour or the outcome of the ratio test.

        Similarities off by `error` change the margin by at most `2 * error`. NaN for padding.
        """
        margin = self.top - self.second
        if ratio is not None:
            margin = torch.minimum(margin, ((1 - self.top) - ratio**2 * (1 - self.second)).abs())
        return margin

    def passes(self, ratio: float) -> Bool[Tensor, "*b n"]:
        """The ratio test on squared distances; a distance of zero passes only if the second is larger."""
        return (1 - self.top).clamp(min=0) < ratio**2 * (1 - self.second).clamp(min=0)

    def cpu(self) -> TopTwo:
        """The same on the CPU."""
        return TopTwo(self.top.cpu(), self.second.cpu(), self.index.cpu())


def top_two_of_matrix(
    d0: Float[Tensor, "b n d"],
    d1: Float[Tensor, "b m d"],
    counts0: Int[Tensor, " b"] | None,
    counts1: Int[Tensor, " b"] | None,
) -> TopTwo:
    """The result for both images of each pair, (B, N + M), from whole matrices of similarities.

    counts0, counts1: number of descriptors of each image, where those at the end are padding; None: no padding
    """
    matrix = torch.bmm(d0, d1.mT)
    for counts, side in ((counts0, matrix.mT), (counts1, matrix)):
        if counts is not None:
            padding = torch.arange(side.shape[2], device=side.device) >= counts[:, None]
            side.masked_fill_(padding[:, None], -math.inf)
    return TopTwo.of_both(_best_of_lines(matrix, 2), _best_of_lines(matrix, 1))


def _best_of_lines(matrix: Tensor, dim: int) -> TopTwo:
    top, index = matrix.max(dim, keepdim=True)
    matrix.scatter_(dim, index, -math.inf)
    second = matrix.amax(dim)
    matrix.scatter_(dim, index, top)
    return TopTwo(top.squeeze(dim), second, index.squeeze(dim))


def top_two_in_tiles(d0: Float[Tensor, "n d"], d1: Float[Tensor, "m d"], entries: int) -> TopTwo:
    """The result for both images of one pair, (1, N + M) float32, from at most `entries` similarities at a time.

    On a CPU each core works on a stripe of rows, without synchronization.
    """
    threads = torch.get_num_threads() if d0.device.type == "cpu" else 1
    if threads == 1 or len(d0) * len(d1) < _WORTH_THREADS:
        rows, columns = _best_of_tiles(d0, d1, entries)
    else:
        stripes = d0.split(_tile_side(len(d0), math.ceil(len(d0) / threads)))
        parts = share(lambda stripe: _best_of_tiles(stripe, d1, entries // threads), stripes, d0.device)
        rows, columns = TopTwo.start(len(d0), d0.device), TopTwo.start(len(d1), d1.device)
        start = 0
        for of_rows, of_columns in parts:
            rows.update(start, of_rows, 0)
            columns.update(0, of_columns, start)
            start += len(of_rows.top)
    best = TopTwo.of_both(rows, columns)
    return TopTwo(best.top[None], best.second[None], best.index[None])


def _best_of_tiles(d0: Tensor, d1: Tensor, entries: int) -> tuple[TopTwo, TopTwo]:
    n, m = len(d0), len(d1)
    rows, columns = TopTwo.start(n, d0.device), TopTwo.start(m, d0.device)
    entries = min(entries, tile_entries(d0.device))
    height = _tile_side(n, math.isqrt(entries))
    width = _tile_side(m, entries // height)
    padded = F.pad(d0, (0, 0, 0, -n % _LANES))
    for y in range(0, n, height):
        a = padded[y : y + height]
        inside = min(n - y, len(a))
        for x in range(0, m, width):
            tile = multiply(a, d1[x : x + width])
            tile[inside:] = -math.inf
            rows.update(y, _best_of_rows(tile[:inside]), x)
            columns.update(x, _best_of_columns(tile), y)
    return rows, columns


def tile_entries(device: torch.device) -> int:
    """Similarities in a tile: 4 MB, to stay in a CPU's cache; few and large ones for a GPU."""
    return 1024**2 if device.type == "cpu" else 8192**2


def _tile_side(n: int, limit: int) -> int:
    """The size of equal parts of n, at most `limit` and a multiple of the lanes."""
    limit = max(_LANES, limit // _LANES * _LANES)
    parts = math.ceil(n / limit)
    return math.ceil(n / parts / _LANES) * _LANES


def _best_of_rows(rows: Tensor) -> TopTwo:
    index = _position(rows)
    top = rows.gather(1, index[:, None])
    rows.scatter_(1, index[:, None], -math.inf)
    second = rows.amax(1)
    rows.scatter_(1, index[:, None], top)
    return TopTwo(top[:, 0], second, index)


def _best_of_columns(tile: Tensor) -> TopTwo:
    """The result for the columns of a tile; after a tie the position may be wrong.

    Finding positions in columns is slow, finding maxima is not. So a column is viewed as blocks x lanes: the maxima of
    its lanes and blocks tell where its largest entry is. Any other entry is in another lane or another block, so they
    also tell the second largest.
    """
    grid = tile.view(-1, _LANES, tile.shape[1])
    lanes = _best_of_rows(grid.flatten(1).amax(0).view(_LANES, -1).T.contiguous())
    blocks = _best_of_rows(grid.amax(1).T.contiguous())
    index = blocks.index * _LANES + lanes.index
    return TopTwo(lanes.top, torch.maximum(lanes.second, blocks.second), index)


def _position(rows: Tensor) -> Tensor:
    """The index of the largest entry of each row; numpy, unlike torch, uses vector instructions."""
    return torch.from_numpy(rows.numpy().argmax(1)) if rows.device.type == "cpu" else rows.argmax(1)
