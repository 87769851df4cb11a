"""Exact mutual nearest neighbours with a two-way ratio test, without ever holding the N x M matrix.

Unit descriptors a, b are sqrt(2 - 2 a.b) apart, so the nearest neighbour is the one of largest
similarity a.b. Similarities are computed in single precision, a tile at a time; each tile updates the best
and second best of its rows and of its columns while it is still in cache. Where rounding could change
a decision (nearest neighbour or ratio), that row or column is computed again in double precision.
So the result is the one of a double precision matrix, whatever the size of a tile.
"""

from __future__ import annotations

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier

import torch

from disk.errors import DiskError
from disk.features import Features, Matches
from disk.shapes import Bool, Float, Int, Tensor

# similarities closer than this count as equal: far below any real difference, far above the rounding of doubles
_TIE = 1e-12
_LANES = 32
# fewer similarities than this are not worth a second thread
_WORTH_THREADS = 1024**2


def match(f0: Features, f1: Features, ratio: float | None = None) -> Matches:
    """Mutual nearest neighbours between the features of two images; see `mutual_nearest`."""
    return mutual_nearest(f0.descriptors, f1.descriptors, ratio)


def mutual_nearest(
    d0: Float[Tensor, "n d"],
    d1: Float[Tensor, "m d2"],
    ratio: float | None = None,
    max_entries: int | None = None,
) -> Matches:
    """Pairs of descriptors that are each other's nearest neighbour, rising in the first index.

    d0, d1: unit length. Similarities that agree to 1e-12 are a tie and the lowest index is the nearest.
    ratio: in (0, 1]; keeps a pair if its distance is less than `ratio` times the distance to the second nearest,
    in both directions. A tie leaves a ratio of 1, which never passes; with no second neighbour it always passes.
    max_entries: no more similarities than this are held at once (but always one row and a block of 32 x 32);
    it never changes the result.
    Raises DiskError for another ratio, descriptors of different length, NaN or infinity.
    """
    if ratio is not None and not 0 < ratio <= 1:
        raise DiskError(f"ratio {ratio:g} makes no sense; choose one above 0 and at most 1, or none for no ratio test")
    if d0.shape[1] != d1.shape[1]:
        raise DiskError(f"descriptors of length {d0.shape[1]} and {d1.shape[1]} cannot be matched")
    n, m = len(d0), len(d1)
    if n == 0 or m == 0:
        return Matches(d0.new_empty((0, 2), dtype=torch.int64), d0.new_empty((0,), dtype=torch.float32))

    d0, d1 = d0.detach(), d1.detach()
    entries = max_entries or n * m
    rows, columns = _best_of_matrix(d0.float(), d1.float(), entries)
    error = _similarity_error(d0, d1)
    for best, mine, others in ((rows, d0, d1), (columns, d1, d0)):
        _decide_in_double(best, best.unsure(ratio, error), mine, others, entries)

    i = torch.arange(n, device=rows.index.device)
    j = rows.index
    keep = columns.index[j] == i
    if ratio is not None:
        keep &= rows.passes(ratio) & columns.passes(ratio)[j]
    indices = torch.stack([i[keep], j[keep]], 1).to(d0.device)
    distances = torch.linalg.vector_norm(d0[indices[:, 0]].float() - d1[indices[:, 1]].float(), dim=1)
    return Matches(indices, distances)


@dataclass
class _Best:
    """For each descriptor of one image: the largest and second largest similarity and where the largest is."""

    top: Float[Tensor, " n"]
    second: Float[Tensor, " n"]
    index: Int[Tensor, " n"]

    @staticmethod
    def start(n: int, device: torch.device) -> _Best:
        nothing = torch.full((n,), -math.inf, device=device)
        return _Best(nothing, nothing.clone(), torch.zeros(n, dtype=torch.int64, device=device))

    def update(self, start: int, tile: _Best, offset: int) -> None:
        """Take the descriptors from `start` on, seen in a tile whose first neighbour is number `offset`."""
        part = slice(start, start + len(tile.top))
        top, second = self.top[part], self.second[part]
        index = torch.where(tile.top > top, tile.index + offset, self.index[part])
        loser = torch.minimum(tile.top, top)
        self.second[part] = torch.maximum(loser, torch.maximum(tile.second, second))
        self.top[part] = torch.maximum(tile.top, top)
        self.index[part] = index

    def unsure(self, ratio: float | None, error: float) -> Bool[Tensor, " n"]:
        """Where similarities off by `error` could change the nearest neighbour or fail the ratio test."""
        unsure = self.top - self.second <= 4 * error
        if ratio is not None:
            unsure |= ((1 - self.top) - ratio**2 * (1 - self.second)).abs() <= 4 * error
        return unsure

    def passes(self, ratio: float) -> Bool[Tensor, " n"]:
        """The ratio test on squared distances; a distance of zero passes only if the second is larger."""
        return (1 - self.top).clamp(min=0) < ratio**2 * (1 - self.second).clamp(min=0)


def _best_of_matrix(d0: Tensor, d1: Tensor, entries: int) -> tuple[_Best, _Best]:
    """Best of rows and columns; on a CPU each core takes a stripe of rows, and no two wait for each other."""
    threads = torch.get_num_threads() if d0.device.type == "cpu" else 1
    if threads == 1 or len(d0) * len(d1) < _WORTH_THREADS:
        return _best_of_tiles(d0, d1, entries)
    stripes = d0.split(_tile_side(len(d0), math.ceil(len(d0) / threads)))
    parts = list(_workers(threads).map(lambda stripe: _best_of_tiles(stripe, d1, entries // threads), stripes))
    rows, columns = _Best.start(len(d0), d0.device), _Best.start(len(d1), d1.device)
    start = 0
    for of_rows, of_columns in parts:
        rows.update(start, of_rows, 0)
        columns.update(0, of_columns, start)
        start += len(of_rows.top)
    return rows, columns


@functools.cache
def _workers(threads: int) -> ThreadPoolExecutor:
    """Threads in each of which torch uses one core; torch's own would meet after every small step."""

    def use_one_core() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # the first call in a thread is what makes it so for good

    pool = ThreadPoolExecutor(threads, "match", initializer=use_one_core)
    started = Barrier(threads + 1)
    for _ in range(threads):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(threads)  # as it was, for threads that start from now on
    return pool


def _best_of_tiles(d0: Tensor, d1: Tensor, entries: int) -> tuple[_Best, _Best]:
    n, m = len(d0), len(d1)
    rows, columns = _Best.start(n, d0.device), _Best.start(m, d0.device)
    entries = min(entries, _tile_entries(d0.device))
    height = _tile_side(n, math.isqrt(entries))
    width = _tile_side(m, entries // height)
    buffer = torch.empty(height * width, device=d0.device)
    for y in range(0, n, height):
        a = d0[y : y + height]
        for x in range(0, m, width):
            b = d1[x : x + width]
            tile = _similarities(a, b, buffer)
            rows.update(y, _best_of_rows(tile[: len(a)]), x)
            columns.update(x, _best_of_columns(tile), y)
    return rows, columns


def _tile_entries(device: torch.device) -> int:
    """4 MB of a CPU's cache hold a tile; a GPU wants few, large ones."""
    return 1024**2 if device.type == "cpu" else 8192**2


def _tile_side(n: int, limit: int) -> int:
    """Cut n into equal parts of at most `limit`, which are multiples of the lanes."""
    limit = max(_LANES, limit // _LANES * _LANES)
    parts = math.ceil(n / limit)
    return math.ceil(n / parts / _LANES) * _LANES


def _similarities(a: Tensor, b: Tensor, buffer: Tensor) -> Tensor:
    """a b^T in the buffer, with rows of minus infinity up to a multiple of the lanes."""
    n, m = len(a), len(b)
    height = math.ceil(n / _LANES) * _LANES
    tile = buffer[: height * m].view(height, m)
    torch.mm(a, b.T, out=tile[:n])
    tile[n:] = -math.inf
    return tile


def _best_of_rows(rows: Tensor) -> _Best:
    index = _position(rows)
    top = rows.gather(1, index[:, None])
    rows.scatter_(1, index[:, None], -math.inf)
    second = rows.amax(1)
    rows.scatter_(1, index[:, None], top)
    return _Best(top[:, 0], second, index)


def _best_of_columns(tile: Tensor) -> _Best:
    """After a tie the position may be wrong.

    Positions in columns are slow to find, maxima are not. So a column is seen as blocks x lanes: the maxima of
    its lanes and of its blocks tell where its largest entry is. Any other entry is in another lane or in
    another block, so they tell the second largest too.
    """
    grid = tile.view(-1, _LANES, tile.shape[1])
    lanes = _best_of_rows(grid.flatten(1).amax(0).view(_LANES, -1).T.contiguous())
    blocks = _best_of_rows(grid.amax(1).T.contiguous())
    index = blocks.index * _LANES + lanes.index
    return _Best(lanes.top, torch.maximum(lanes.second, blocks.second), index)


def _position(rows: Tensor) -> Tensor:
    """Where each row is largest; numpy, unlike torch, searches with vector instructions."""
    return torch.from_numpy(rows.numpy().argmax(1)) if rows.device.type == "cpu" else rows.argmax(1)


def _similarity_error(d0: Tensor, d1: Tensor) -> float:
    """A bound on the error of a similarity in a tile.

    D products added in any order: D u / (1 - D u) times the lengths (Higham, Accuracy and Stability, 3.1); the
    inputs are rounded once more if they were doubles or if torch is allowed to multiply in a shorter format.
    """
    lengths = torch.linalg.vector_norm(d0, dim=1).max() * torch.linalg.vector_norm(d1, dim=1).max()
    if not torch.isfinite(lengths):
        raise DiskError("descriptors hold NaN or infinity; detect the features again")
    rounding = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}[torch.get_float32_matmul_precision()]
    return (4 * rounding + (d0.shape[1] + 4) * 2.0**-24) * float(lengths)


def _decide_in_double(best: _Best, unsure: Tensor, mine: Tensor, others: Tensor, entries: int) -> None:
    """Replace the entries of `best` where `unsure` by those of double precision similarities."""
    # Apple's GPUs have no doubles
    device = torch.device("cpu") if mine.device.type == "mps" else mine.device
    best.top, best.second = best.top.to(device).double(), best.second.to(device).double()
    best.index, which = best.index.to(device), unsure.nonzero()[:, 0].to(device)
    if len(which) == 0:
        return
    mine, others = mine.to(device), others.to(device).double()
    entries = min(entries, _tile_entries(device))
    for part in which.split(max(1, entries // len(others))):
        similarity = mine[part].double() @ others.T
        top = similarity.amax(1)
        index = (similarity >= top[:, None] - _TIE).byte().argmax(1)
        best.index[part] = index
        best.top[part] = top
        second = similarity.scatter_(1, index[:, None], -math.inf).amax(1)
        # equal descriptors may have products that differ in the last digit
        best.second[part] = torch.where(second >= top - _TIE, top, second)
