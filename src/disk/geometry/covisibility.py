"""How many points of a scene two images share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from disk.shapes import Int


def shared_points(seen: Sequence[Int[np.ndarray, " _"]]) -> Int[np.ndarray, "n n"]:
    """The number of points that both images of each pair see; 0 on the diagonal.

    seen: ids of the points that each image sees, without duplicates
    """
    image = np.repeat(np.arange(len(seen)), [len(ids) for ids in seen])
    point = np.concatenate([*seen, np.zeros(0, dtype=np.int64)])
    order = np.lexsort((image, point))
    image, point = image[order], point[order]
    shared = np.zeros((len(seen), len(seen)), dtype=np.int64)
    # the images of a point are consecutive: pair each with the next one, then with the one after that, and so on
    first, step = np.arange(len(point)), 1
    while len(first):
        first = first[first + step < len(point)]
        first = first[point[first] == point[first + step]]
        np.add.at(shared, (image[first], image[first + step]), 1)
        step += 1
    return shared + shared.T
