"""Exact mutual nearest neighbours with a two-way ratio test: the same result as in double precision.

The distance between unit descriptors a, b is sqrt(2 - 2 a.b), so the nearest neighbour has the largest similarity a.b.
A first pass in single or half precision finds the two largest similarities of each descriptor (top_two.py). Where
rounding could change a decision (nearest neighbour or ratio), that row or column is computed again in double
precision, for all pairs of a batch at once.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from disk.errors import DiskError
from disk.features import Matches
from disk.matching.top_two import TopTwo, tile_entries, top_two_in_tiles, top_two_of_matrix
from disk.shapes import Bool, Float, Int, Tensor

# for `disk match`, `disk reconstruct` and `disk.match`; measured in docs/results.md, "The ratio"
DEFAULT_RATIO = 0.92
# similarities closer than this are equal: far below any real difference, far above the rounding of doubles
_TIE = 1e-12
_UNIT = 0.01  # how far from 1 the length of a descriptor may be; bfloat16 is off by less than 0.004
# default number of similarities in a batch: 256 MB in single precision
_BATCH_ENTRIES = 8192**2
# only pairs of similar size share a batch: at most this part of its similarities are padding
_PADDING = 0.3
_MOST_PAIRS = 65535  # in a batch: CUDA's limit for the second axis of a grid


def mutual_nearest(
    d0: Float[Tensor, "n d"],
    d1: Float[Tensor, "m d2"],
    ratio: float | None = None,
    max_entries: int | None = None,
) -> Matches:
    """Pairs of descriptors that are each other's nearest neighbour, sorted by the first index.

    Similarities that agree to 1e-12 are a tie, and the lowest index is the nearest.
    d0, d1: descriptors of unit length
    ratio: in (0, 1]; keeps a pair if its distance is less than `ratio` times the distance to the second nearest, in
    both directions. A tie has a ratio of 1 and never passes; a pair without a second neighbour always passes.
    max_entries: maximum number of similarities held at once (at least one row and a block of 32 x 32); never changes
    the result

    Raises DiskError for another ratio, and for descriptors that have different dimensions, are not of unit length, or
    hold NaN or infinity.
    """
    return mutual_nearest_pairs([(d0, d1)], ratio, max_entries)[0]


@torch.no_grad()
def mutual_nearest_pairs(
    pairs: Sequence[tuple[Tensor, Tensor]],
    ratio: float | None = None,
    max_entries: int | None = None,
    device: torch.device | str | None = None,
) -> list[Matches]:
    """`mutual_nearest` for many pairs (d0, d1), all on one device; on a GPU in batches of pairs of similar size.

    device: where the matches go, in one copy per batch; default: the device of the descriptors

    Raises DiskError as `mutual_nearest`.
    """
    if ratio is not None and not 0 < ratio <= 1:
        raise DiskError(f"ratio {ratio:g}: must be above 0 and at most 1, or none for no ratio test")
    found: list[Matches | None] = [None] * len(pairs)
    for i, (d0, d1) in enumerate(pairs):
        if d0.shape[1] != d1.shape[1]:
            raise DiskError(f"descriptors of length {d0.shape[1]} and {d1.shape[1]} cannot be matched")
        if len(d0) == 0 or len(d1) == 0:
            empty = Matches(d0.new_empty((0, 2), dtype=torch.int64), d0.new_empty((0,), dtype=torch.float32))
            found[i] = empty.to(device or d0.device)
    todo = [i for i, matches in enumerate(found) if matches is None]
    entries = max_entries or _BATCH_ENTRIES
    for batch in _batches(todo, pairs, entries):
        where = pairs[batch[0]][0].device
        with torch.autocast(where.type, enabled=False):
            matches, counts = _match_batch([pairs[i] for i in batch], ratio, entries)
        matches = matches.to(device or where)
        parts = zip(matches.indices.split(counts), matches.distances.split(counts), strict=True)
        for i, part in zip(batch, parts, strict=True):
            found[i] = Matches(*part)
    return [matches for matches in found if matches is not None]


def _batches(todo: Sequence[int], pairs: Sequence[tuple[Tensor, Tensor]], entries: int) -> Iterator[list[int]]:
    """Group pairs of similar size, each group within `entries` similarities; on a CPU one pair per group."""
    batch: list[int] = []
    held = height = width = 0
    for i in sorted(todo, key=lambda i: (_kind(pairs[i]), *map(len, pairs[i]))):
        n, m = map(len, pairs[i])
        padded = (len(batch) + 1) * max(height, n) * max(width, m)
        fits = len(batch) < _MOST_PAIRS and padded <= entries and held + n * m >= (1 - _PADDING) * padded
        if batch and not (fits and _kind(pairs[i]) == _kind(pairs[batch[0]]) and pairs[i][0].device.type != "cpu"):
            yield batch
            batch, held, height, width = [], 0, 0, 0
        batch.append(i)
        held, height, width = held + n * m, max(height, n), max(width, m)
    if batch:
        yield batch


def _kind(pair: tuple[Tensor, Tensor]) -> tuple[str, str, int]:
    return str(pair[0].dtype), str(pair[1].dtype), pair[0].shape[1]


def _match_batch(
    pairs: Sequence[tuple[Tensor, Tensor]], ratio: float | None, entries: int
) -> tuple[Matches, list[int]]:
    """The concatenated matches of all pairs, and the number of matches of each."""
    (d0, counts0), (d1, counts1) = (_pack([pair[side].detach() for pair in pairs]) for side in (0, 1))
    best, error = _first_pass(d0, d1, counts0, counts1, entries)
    n, both = d0.shape[1], torch.cat([d0, d1], 1)
    padding = None if counts0 is None and counts1 is None else _padding(d0, d1, counts0, counts1)
    if both.device.type == "mps":  # Apple's GPUs have no doubles
        best, both, padding = best.cpu(), both.cpu(), None if padding is None else padding.cpu()
    margin = best.margin(ratio)
    doubtful = (margin <= 4 * error).sum(1).amax()
    shortest, longest = torch.linalg.vector_norm(both.float(), dim=2).aminmax()
    # all that the host needs, in one copy
    *lengths, doubts = torch.stack([shortest, longest, doubtful.float()]).tolist()
    if not all(abs(length - 1) < _UNIT for length in lengths):
        _check_lengths(both)
    if doubts:
        again = margin.topk(int(doubts), dim=1, largest=False).indices
        best = _decide_in_double(best, again, both, n, padding, min(entries, tile_entries(both.device)))

    # mutual: nearest to its own nearest neighbour
    i, partner = torch.arange(n, device=both.device), best.index[:, :n]
    keep = best.index.gather(1, partner) == i
    if ratio is not None:
        passes = best.passes(ratio)
        keep &= passes[:, :n] & passes.gather(1, partner)
    pair, i = keep.nonzero().unbind(1)
    j = partner[pair, i]
    distances = torch.linalg.vector_norm(both[pair, i].float() - both[pair, j].float(), dim=1)
    return Matches(torch.stack([i, j - n], 1), distances), keep.sum(1).tolist()


def _pack(parts: Sequence[Tensor]) -> tuple[Float[Tensor, "b n d"], Int[Tensor, " b"] | None]:
    """Pad the descriptors of several images to one tensor; also their numbers, or None if these are all equal."""
    lengths = [len(part) for part in parts]
    if len(set(lengths)) == 1:
        return torch.stack(list(parts)), None
    counts = torch.tensor(lengths, device=parts[0].device)
    together = torch.cat(list(parts))
    rows = (counts.cumsum(0) - counts)[:, None] + torch.arange(max(lengths), device=together.device)
    # the padding holds descriptors of the following images
    return together[rows.clamp(max=len(together) - 1)], counts


def _padding(d0: Tensor, d1: Tensor, counts0: Tensor | None, counts1: Tensor | None) -> Bool[Tensor, "b nm"]:
    """Mask of the padding among the descriptors of both images."""
    masks = []
    for d, counts in ((d0, counts0), (d1, counts1)):
        counts = torch.full((len(d),), d.shape[1], device=d.device) if counts is None else counts
        masks.append(torch.arange(d.shape[1], device=d.device) >= counts[:, None])
    return torch.cat(masks, 1)


def _first_pass(
    d0: Tensor, d1: Tensor, counts0: Tensor | None, counts1: Tensor | None, entries: int
) -> tuple[TopTwo, float]:
    """The two largest similarities, and a bound on their error.

    A sum of D products, in any order, is off by at most D u / (1 - D u) times the lengths (Higham, Accuracy and
    Stability, 3.1). The kernel adds up three products on tensor cores, which truncate sums at u = 2^-23. The inputs are
    rounded once more if they are doubles or multiplied in a shorter format.
    """
    depth, longest = d0.shape[2], (1 + _UNIT) ** 2
    kernel = _kernel(d0.device)
    if kernel is not None:
        top_two, rounding = kernel
        d0, d1 = (d if d.dtype == torch.float16 else d.float() for d in (d0, d1))
        return top_two(d0, d1, counts0, counts1), (4 * rounding + 3 * (depth + 8) * 2.0**-23) * longest
    d0, d1 = d0.float(), d1.float()
    error = (4 * _rounding_of_products() + (depth + 4) * 2.0**-24) * longest
    if len(d0) == 1 and (d0.device.type == "cpu" or d0.shape[1] * d1.shape[1] > entries):
        return top_two_in_tiles(d0[0], d1[0], entries), error
    return top_two_of_matrix(d0, d1, counts0, counts1), error


@functools.cache
def _kernel(device: torch.device) -> tuple[Callable[..., TopTwo], float] | None:
    """The Triton kernel and its rounding; None without Triton, and on a CPU or an old GPU."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:
        from disk.matching.top_two_triton import ROUNDING, top_two_by_kernel
    except ImportError:
        return None
    return top_two_by_kernel, ROUNDING


def _rounding_of_products() -> float:
    """Relative rounding of the inputs of float32 products, which torch's settings may allow in a shorter format."""
    onednn: Any = torch.backends.mkldnn  # its annotations have no matmul
    backends = [torch.backends, torch.backends.cuda.matmul, onednn, getattr(onednn, "matmul", None)]
    chosen = {getattr(backend, "fp32_precision", "") for backend in backends}  # torch 2.9 and later
    with contextlib.suppress(RuntimeError):  # torch refuses to summarize settings made one by one
        chosen.add(torch.get_float32_matmul_precision())
    formats = {"bf16": 2.0**-8, "medium": 2.0**-8, "tf32": 2.0**-11, "high": 2.0**-11}
    return max((formats.get(name, 2.0**-24) for name in chosen), default=2.0**-24)


def _check_lengths(descriptors: Tensor) -> None:
    """Raise DiskError unless all descriptors have unit length; zero vectors are allowed, and similar to nothing."""
    lengths = torch.linalg.vector_norm(descriptors.float(), dim=2)
    if not lengths.isfinite().all():
        raise DiskError("descriptors hold NaN or infinity; detect the features again")
    lengths = lengths[lengths > 0]
    if ((lengths - 1).abs() >= _UNIT).any():
        found = f"{float(lengths.min()):.3g} to {float(lengths.max()):.3g}"
        raise DiskError(f"descriptors must have unit length, these have {found}; divide each by its length")


def _decide_in_double(
    best: TopTwo, again: Tensor, both: Tensor, n: int, padding: Tensor | None, entries: int
) -> TopTwo:
    """`best` in double precision, recomputed for the descriptors `again` (B, K).

    both: the descriptors of both images; the first `n` are those of the first image
    padding: mask of the descriptors that are padding
    """
    best = TopTwo(best.top.double(), best.second.double(), best.index)
    columns = both.double().mT
    is_first = torch.arange(both.shape[1], device=both.device) < n
    for part in again.split(max(1, entries // (both.shape[0] * both.shape[1])), dim=1):
        lines = both.gather(1, part[:, :, None].expand(-1, -1, both.shape[2])).double()
        similarity = torch.bmm(lines, columns)
        similarity.masked_fill_((part < n)[:, :, None] == is_first, -math.inf)
        if padding is not None:
            similarity.masked_fill_(padding[:, None], -math.inf)
        top = similarity.amax(2, keepdim=True)
        index = (similarity >= top - _TIE).byte().argmax(2, keepdim=True)
        second = similarity.scatter_(2, index, -math.inf).amax(2, keepdim=True)
        # equal descriptors may have products that differ in the last digit
        second = torch.where(second >= top - _TIE, top, second)
        for target, value in ((best.top, top), (best.second, second), (best.index, index)):
            target.scatter_(1, part, value.squeeze(2))
    return best
