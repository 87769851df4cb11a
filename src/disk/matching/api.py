"""`disk.match`: features or plain descriptors of two images, or of one image and many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import torch

from disk.errors import DiskError
from disk.features import Features, Matches
from disk.matching.nearest import DEFAULT_RATIO, mutual_nearest_pairs
from disk.options import as_meant
from disk.shapes import Tensor

if TYPE_CHECKING:
    import numpy as np

    Matchable = Features | Tensor | np.ndarray[Any, Any]


@overload
def match(f0: Matchable, f1: Matchable, ratio: float | None = DEFAULT_RATIO) -> Matches: ...


@overload
def match(f0: Matchable, f1: Sequence[Matchable], ratio: float | None = DEFAULT_RATIO) -> list[Matches]: ...


def match(
    f0: Matchable, f1: Matchable | Sequence[Matchable], ratio: float | None = DEFAULT_RATIO
) -> Matches | list[Matches]:
    """Mutual nearest neighbours between two images, or between one image and each of a list.

    f0, f1: features, or unit descriptors (N, D) as a tensor or array; only matches of features have points
    ratio: keep a match if its distance is less than this times the distance to the second nearest, in both directions;
    default: 0.92, as in the commands; None: no ratio test

    Raises DiskError for input that cannot be matched; see `disk.matching.nearest.mutual_nearest`.

    >>> import numpy as np
    >>> a, b = np.eye(4), np.eye(4)[::-1]
    >>> match(a, b).indices.tolist()
    [[0, 3], [1, 2], [2, 1], [3, 0]]
    >>> [len(found) for found in match(a, [b, b[:2]])]
    [4, 2]
    """
    others = list(f1) if isinstance(f1, (list, tuple)) else [f1]
    ratio = as_meant("ratio", ratio, float | None)
    d0 = _descriptors(f0)
    pairs = [(d0, _descriptors(other).to(d0.device)) for other in others]
    found = mutual_nearest_pairs(pairs, ratio)
    if isinstance(f0, Features):
        found = [
            matches.between(f0, other.to(d0.device)) if isinstance(other, Features) else matches
            for matches, other in zip(found, others, strict=True)
        ]
    return found if isinstance(f1, (list, tuple)) else found[0]


def _descriptors(given: Any) -> Tensor:
    if isinstance(given, Features):
        return given.descriptors
    if isinstance(given, list | tuple):
        raise DiskError("only the second argument may be a list, of the features of many images")
    if not isinstance(given, Tensor):
        import numpy as np

        try:
            given = torch.from_numpy(np.ascontiguousarray(given))
        except (TypeError, ValueError):
            raise DiskError(f"cannot match {type(given).__name__}; give features, a tensor or an array") from None
    if given.ndim != 2 or not given.is_floating_point():
        what = f"{given.dtype} of shape {tuple(given.shape)}".removeprefix("torch.")
        raise DiskError(f"descriptors are floating point numbers of shape (N, D), got {what}")
    return given
