"""A-contrario test: whether the inliers of a geometry could be chance."""

from __future__ import annotations

import math

_SAMPLE = 7  # number of matches that determine a fundamental matrix


def log10_false_alarms(matches: int, inliers: int, chance: float, sample: int = _SAMPLE, solutions: int = 3) -> float:
    """log10 of the number of false alarms (NFA), an a-contrario test (Moisan and Stival, IJCV 2004).

    The NFA is the expected number of geometries with at least this many inliers if all matches are wrong. Every subset
    of `sample` matches can propose a geometry, so among hundreds of wrong matches a tenth agree with the best one.
    Below 0 (NFA < 1), chance does not explain the inliers. Infinite if only the sample itself agrees.
    matches: number of matches.
    inliers: number of matches that agree with the geometry.
    chance: probability that a wrong match is an inlier.
    sample: number of matches that determine a geometry; default: 7, for an epipolar geometry.
    solutions: maximum number of geometries per sample.
    """
    if inliers <= sample:
        return math.inf
    proposals = solutions * (matches - sample) * math.comb(matches, inliers) * math.comb(inliers, sample)
    return math.log10(proposals) + (inliers - sample) * math.log10(chance)


def chance_of_inlier(width: int, height: int, max_error: float | int) -> float:
    """Upper bound of the probability that a random point of an image is within `max_error` of a line; in pixels."""
    return min(1.0, 2 * max_error * math.hypot(width, height) / (width * height))
