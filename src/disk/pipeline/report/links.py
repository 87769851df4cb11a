"""How strongly photos are linked, and where a model would break apart first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from disk.shapes import Float


@dataclass(frozen=True)
class Link:
    """A connection between two photos.

    first, second: indices of the photos
    strength: number of inliers or points they share
    joins: number of photos on either side
    """

    first: int
    second: int
    strength: int
    joins: tuple[int, int]


def weakest_links(links: Float[np.ndarray, "n n"], photos: Collection[int], most: int) -> list[Link]:
    """The weakest links that hold the photos together, weakest first.

    They are edges of the maximum spanning tree (Kruskal 1956): no stronger link joins the two sides of one.
    links: symmetric, 0 or nan where two photos do not connect
    photos: indices of the photos
    most: maximum number of links
    """
    group_of = {photo: {photo} for photo in photos}
    rows, columns = np.nonzero(np.triu(np.nan_to_num(links), 1))
    tree = []
    for index in np.argsort(-links[rows, columns], kind="stable"):
        first, second = int(rows[index]), int(columns[index])
        one, other = group_of.get(first), group_of.get(second)
        if one is None or other is None or one is other:
            continue
        tree.append(Link(first, second, int(links[first, second]), (len(one), len(other))))
        if len(one) < len(other):
            one, other = other, one
        one |= other
        for photo in other:
            group_of[photo] = one
    return tree[::-1][:most]


def strongest_link(links: Float[np.ndarray, "n n"], photo: int) -> tuple[int, int] | None:
    """The photo with the strongest link to a photo, and its strength; None if there is no link."""
    row = np.nan_to_num(links[photo])
    best = int(row.argmax())
    return (best, int(row[best])) if row[best] > 0 else None


def link_matrix(count: int, pairs: Sequence[tuple[int, int, int]]) -> Float[np.ndarray, "n n"]:
    """The symmetric matrix of (first, second, strength); nan elsewhere."""
    links = np.full((count, count), np.nan)
    for first, second, strength in pairs:
        links[first, second] = links[second, first] = strength
    return links
