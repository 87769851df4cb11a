"""How likely matches agree with an epipolar geometry by chance."""

from __future__ import annotations

import math

_SAMPLE = 7  # matches that determine a fundamental matrix


def log10_false_alarms(matches: int, inliers: int, chance: float) -> float:
    """The log10 of how many epipolar geometries as good as this one to expect where no match is right.

    chance: the probability that a wrong match is an inlier. Every 7 of the matches may have proposed up to three
    geometries, so of hundreds of wrong matches a tenth agree with the luckiest one; below 0, or one geometry, it is no
    luck. Infinite when no more than the 7 agree (Moisan and Stival, IJCV 2004).
    """
    if inliers <= _SAMPLE:
        return math.inf
    proposals = 3 * (matches - _SAMPLE) * math.comb(matches, inliers) * math.comb(inliers, _SAMPLE)
    return math.log10(proposals) + (inliers - _SAMPLE) * math.log10(chance)


def chance_of_inlier(width: int, height: int, max_error: float | int) -> float:
    """At most the probability that a random point of an image is within `max_error` of a line, all in pixels."""
    return min(1.0, 2 * max_error * math.hypot(width, height) / (width * height))
