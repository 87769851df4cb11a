"""How likely matches agree with a geometry by chance."""

from __future__ import annotations

import math

_SAMPLE = 7  # matches that determine a fundamental matrix


def log10_false_alarms(matches: int, inliers: int, chance: float, sample: int = _SAMPLE, solutions: int = 3) -> float:
    """The log10 of how many geometries as good as this one to expect where no match is right.

    chance: the probability that a wrong match is an inlier. Every `sample` of the matches may have proposed up to that
    many `solutions` (by default an epipolar geometry, of 7 matches), so of hundreds of wrong matches a tenth agree with
    the luckiest one; below 0, or one geometry, it is no luck. Infinite when no more than the sample agree (Moisan and
    Stival, IJCV 2004).
    """
    if inliers <= sample:
        return math.inf
    proposals = solutions * (matches - sample) * math.comb(matches, inliers) * math.comb(inliers, sample)
    return math.log10(proposals) + (inliers - sample) * math.log10(chance)


def chance_of_inlier(width: int, height: int, max_error: float | int) -> float:
    """At most the probability that a random point of an image is within `max_error` of a line, all in pixels."""
    return min(1.0, 2 * max_error * math.hypot(width, height) / (width * height))
