"""Which images see the same thing, and tuples of them for training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from disk.shapes import Bool, Float, Int

# tuples an image may be in; more add little, since they share their pairs
TUPLES_PER_IMAGE = 100


def covisibility(points: Sequence[Int[np.ndarray, " _"]]) -> Float[np.ndarray, "n n"]:
    """Shared 3D points over the smaller number of points, for all pairs; 0 for an image without points.

    points: the ids of the 3D points each image sees, each id once.
    """
    count = np.array([len(seen) for seen in points], dtype=np.int64)
    image = np.repeat(np.arange(len(points)), count)
    point = np.concatenate([*points, np.zeros(0, dtype=np.int64)])
    order = np.lexsort((image, point))
    image, point = image[order], point[order]
    shared = np.zeros((len(points), len(points)), dtype=np.int64)
    # the images of a point follow each other: pair every one with the next, the one after it, and so on
    first, step = np.arange(len(point)), 1
    while len(first):
        first = first[first + step < len(point)]
        first = first[point[first] == point[first + step]]
        np.add.at(shared, (image[first], image[first + step]), 1)
        step += 1
    shared += shared.T
    return shared / np.maximum(np.minimum(count[:, None], count[None, :]), 1)


def choose_tuples(
    covisible: Bool[np.ndarray, "n n"], size: int, per_image: int = TUPLES_PER_IMAGE, seed: int = 0
) -> Int[np.ndarray, "m k"]:
    """Tuples of images in which every pair is covisible, balanced over the images and at most `per_image` for each.

    The least used image is served again and again, together with its least used neighbours, until it has its
    number or no tuple is left for it. No tuple occurs twice; all are sorted.
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
    """Complete `start` by mutually adjacent candidates to a tuple not chosen yet, the least used ones first."""
    if len(start) == size:
        complete = tuple(sorted(start))
        return None if complete in chosen else complete
    images = np.flatnonzero(candidates)
    if len(start) + len(images) < size:
        return None
    left = candidates.copy()
    for image in images[np.lexsort((generator.random(len(images)), uses[images]))]:
        # once tried, an image need not come up again deeper down: the order within a tuple does not matter
        left[image] = False
        found = _new_tuple([*start, int(image)], left & adjacent[image], adjacent, size, uses, chosen, generator)
        if found is not None:
            return found
    return None
