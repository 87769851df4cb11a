"""Similarity transform from a model to measured positions, such as from GPS, of which some may be wrong."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from disk.errors import DiskError
from disk.geometry.pose import align_similarity
from disk.progress import counted
from disk.shapes import Bool, Float

_TRIPLES = 500  # number tried; with 45 % of the positions wrong, about 80 have no wrong position
_SAME = 1e-3  # fraction of the extent; closer positions count as equal
_LINE = 5.0  # maximum uncertainty of the rotation about the line of the positions, in degrees
# (count, residual relative to the extent): random positions have a smaller residual in 1 of 100 cases
_BY_CHANCE = ((3, 0.15), (7, 0.25), (math.inf, 0.5))


class NotFixedError(DiskError):
    """The positions do not determine a similarity; the message says why."""


@dataclass(frozen=True, eq=False)
class PositionFit:
    """The similarity position = scale R x + t for a point x of the model.

    residuals: distance of each position from its transformed camera centre.
    used: which positions were used.
    """

    scale: float
    R: Float[np.ndarray, "3 3"]
    t: Float[np.ndarray, " 3"]
    residuals: Float[np.ndarray, " n"]
    used: Bool[np.ndarray, " n"]


def fit_positions(centres: Float[np.ndarray, "n 3"], positions: Float[np.ndarray, "n 3"]) -> PositionFit:
    """Fit the similarity from camera centres to their positions, robust to wrong positions.

    Least median of squares over triples (Rousseeuw, JASA 1984, with his quantile for this number of parameters), then
    least squares over the positions within three standard deviations.

    Raises NotFixedError if there are fewer than three positions, if they (or the centres) are at one place or in a
    line, or if they agree with the centres no better than chance.
    """
    if len(positions) < 3:
        raise NotFixedError(f"a position for only {counted(len(positions), 'photo')} of the model; three are needed")
    if np.ptp(positions, axis=0).max() == 0:
        raise NotFixedError(f"all {len(positions)} photos have the same position")
    if np.linalg.norm(centres - centres[0], axis=1).max() == 0:
        raise NotFixedError("all cameras of the model are in one place")
    least = (len(positions) + 4) // 2  # minimum number of positions that must agree
    residuals = _best_of_triples(centres, positions, least)
    used = np.argsort(residuals)[:least]
    for _ in range(20):
        scale, R, t = align_similarity(centres[used], positions[used])
        residuals = np.linalg.norm(scale * centres @ R.T + t - positions, axis=1)
        best = np.sort(residuals)[:least]
        within = max(3 * math.sqrt((best**2).mean()), _SAME * _extent(positions[used]), best[-1])
        before, used = used, np.flatnonzero(residuals <= within)
        if np.array_equal(before, used):
            break
    _check(positions[used], residuals[used])
    return PositionFit(scale, R, t, residuals, residuals <= within)


def _best_of_triples(centres: np.ndarray, positions: np.ndarray, least: int) -> np.ndarray:
    """Residuals under the best triple's similarity: the one with the smallest `least`-th residual."""
    count = len(positions)
    if math.comb(count, 3) <= _TRIPLES:
        triples = [list(triple) for triple in itertools.combinations(range(count), 3)]
    else:
        rng = np.random.default_rng(0)
        triples = [rng.choice(count, 3, replace=False).tolist() for _ in range(_TRIPLES)]
    best, found = math.inf, np.full(count, math.inf)
    for triple in triples:
        try:
            scale, R, t = align_similarity(centres[triple], positions[triple])
        except ValueError:  # three cameras at the same place
            continue
        residuals = np.linalg.norm(scale * centres @ R.T + t - positions, axis=1)
        worst = float(np.partition(residuals, least - 1)[least - 1])
        if worst < best:
            best, found = worst, residuals
    return found


def _check(positions: np.ndarray, residuals: np.ndarray) -> None:
    count, extent = len(positions), _extent(positions)
    if extent == 0:
        raise NotFixedError(f"most photos ({count}) have the same position")
    across = np.linalg.svd(positions - positions.mean(0), compute_uv=False)[1] / math.sqrt(count)
    off = math.sqrt(3 * (residuals**2).sum() / (3 * count - 7))  # root mean square, corrected for 7 fitted parameters
    most = next(share for up_to, share in _BY_CHANCE if count <= up_to)
    if off > most * extent:
        raise NotFixedError(
            f"the positions do not agree with the model: they are off by {off:.3g} m over {extent:.3g} m"
        )
    about = math.degrees(off / (across * math.sqrt(count))) if across > 0 else math.inf
    if across < _SAME * extent or about > _LINE:
        raise NotFixedError("the photos are in a line within GPS accuracy, which leaves the rotation about it unknown")


def _extent(positions: np.ndarray) -> float:
    """Root mean square distance from the centroid."""
    return float(np.sqrt(((positions - positions.mean(0)) ** 2).sum(1).mean()))
