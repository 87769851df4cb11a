"""Covisibility of images, and training tuples of covisible images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from disk.geometry.covisibility import shared_points
from disk.shapes import Bool, Float, Int

# maximum number of tuples per image; more add little, because they share their pairs
TUPLES_PER_IMAGE = 100


def covisibility(points: Sequence[Int[np.ndarray, " _"]]) -> Float[np.ndarray, "n n"]:
    """Number of shared 3D points over the smaller number of points, for all pairs; 0 for an image without points.

    points: ids of the 3D points that each image sees, without duplicates.
    """
    count = np.array([len(seen) for seen in points], dtype=np.int64)
    return shared_points(points) / np.maximum(np.minimum(count[:, None], count[None, :]), 1)


def choose_tuples(
    covisible: Bool[np.ndarray, "n n"], size: int, per_image: int = TUPLES_PER_IMAGE, seed: int = 0
) -> Int[np.ndarray, "m k"]:
    """Choose tuples of mutually covisible images, balanced over the images.

    Repeatedly picks the least used image and completes it with its least used neighbours, until every image has its
    maximum or no tuples are left for it. Tuples are sorted and unique.
    covisible: which pairs may share a tuple.
    size: images per tuple.
    per_image: maximum number of tuples per image.
    """
    generator = np.random.default_rng(seed)
    adjacent = covisible & covisible.T & ~np.eye(len(covisible), dtype=bool)
    uses = np.zeros(len(adjacent), dtype=np.int64)
    chosen: set[tuple[int, ...]] = set()
    waiting = adjacent.any(axis=1)
    while waiting.any():
        images = np.flatnonzero(waiting)
        image = int(generator.choice(images[uses[images] == uses[images].min()]))
        found = _new_tuple([image], adjacent[image] & (uses < per_image), adjacent, size, uses, chosen, generator)
        if found is None:
            waiting[image] = False
        else:
            chosen.add(found)
            uses[list(found)] += 1
            waiting &= uses < per_image
    return np.array(sorted(chosen), dtype=np.int64).reshape(-1, size)


def _new_tuple(
    start: list[int],
    candidates: Bool[np.ndarray, " n"],
    adjacent: Bool[np.ndarray, "n n"],
    size: int,
    uses: Int[np.ndarray, " n"],
    chosen: set[tuple[int, ...]],
    generator: np.random.Generator,
) -> tuple[int, ...] | None:
    """Complete `start` to a new tuple with mutually adjacent candidates, least used first."""
    if len(start) == size:
        complete = tuple(sorted(start))
        return None if complete in chosen else complete
    images = np.flatnonzero(candidates)
    if len(start) + len(images) < size:
        return None
    left = candidates.copy()
    for image in images[np.lexsort((generator.random(len(images)), uses[images]))]:
        # deeper levels need not try this image again: the order within a tuple does not matter
        left[image] = False
        found = _new_tuple([*start, int(image)], left & adjacent[image], adjacent, size, uses, chosen, generator)
        if found is not None:
            return found
    return None
