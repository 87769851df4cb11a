"""EXIF orientations: how the pixels as stored become the picture that viewers show.

An orientation is a number from 1 (as stored) to 8 (CIPA DC-008, tag 0x0112): an optional flip of the stored image along
x, one along y, and then an optional swap of x and y.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeGuard

import numpy as np

from disk.shapes import Float, Tensor

AS_STORED = 1
_CYCLES = ((1, 8, 3, 6), (2, 5, 4, 7))  # a quarter turn counter-clockwise gives the next one


class _Steps(NamedTuple):
    flip_x: bool
    flip_y: bool
    swap: bool


_STEPS = {
    1: _Steps(False, False, False),
    2: _Steps(True, False, False),
    3: _Steps(True, True, False),
    4: _Steps(False, True, False),
    5: _Steps(False, False, True),
    6: _Steps(False, True, True),
    7: _Steps(True, True, True),
    8: _Steps(True, False, True),
}


def is_orientation(value: Any) -> TypeGuard[int]:
    """Whether a value read from a file is an orientation; cameras that do not know it write 0."""
    return isinstance(value, int) and value in _STEPS


def turned(orientation: int, turns: int) -> int:
    """The orientation after further quarter turns, counter-clockwise."""
    cycle = next(cycle for cycle in _CYCLES if orientation in cycle)
    return cycle[(cycle.index(orientation) + turns) % 4]


def is_mirrored(orientation: int) -> bool:
    """Whether the orientation includes a mirror image."""
    return sum(_STEPS[orientation]) % 2 == 1


def to_upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an array (H, W, ...) from stored to upright; returns a contiguous array."""
    steps = _STEPS[orientation]
    flipped = stored[:: -1 if steps.flip_y else 1, :: -1 if steps.flip_x else 1]
    return np.ascontiguousarray(flipped.swapaxes(0, 1) if steps.swap else flipped)


def to_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an array (H, W, ...) from upright to stored; returns a contiguous array."""
    steps = _STEPS[orientation]
    swapped = upright.swapaxes(0, 1) if steps.swap else upright
    return np.ascontiguousarray(swapped[:: -1 if steps.flip_y else 1, :: -1 if steps.flip_x else 1])


def stored_point(
    x: Float[Tensor, " n"], y: Float[Tensor, " n"], orientation: int, size: tuple[int, int]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Map pixels (x, y) of the upright image to the image as stored, whose (width, height) is `size`."""
    steps = _STEPS[orientation]
    if steps.swap:
        x, y = y, x
    return (size[0] - 1 - x if steps.flip_x else x), (size[1] - 1 - y if steps.flip_y else y)


def upright_points(
    points: Float[np.ndarray, "n 2"], orientation: int, size: tuple[int, int]
) -> Float[np.ndarray, "n 2"]:
    """Map pixels (x, y) of the image as stored, whose (width, height) is `size`, to the upright image."""
    to_upright = upright_from_stored(orientation, size).astype(points.dtype)
    return points @ to_upright[:2, :2].T + to_upright[:2, 2]


def upright_size(orientation: int, size: tuple[int, int]) -> tuple[int, int]:
    """Convert (width, height) from stored to upright, or back."""
    return size[::-1] if _STEPS[orientation].swap else size


def upright_from_stored(orientation: int, size: tuple[int, int]) -> Float[np.ndarray, "3 3"]:
    """The matrix from homogeneous pixels of the image as stored, of (width, height) `size`, to the upright image."""
    steps = _STEPS[orientation]
    rows = np.eye(3)
    for axis, flip in enumerate((steps.flip_x, steps.flip_y)):
        if flip:
            rows[axis, axis], rows[axis, 2] = -1, size[axis] - 1
    return rows[[1, 0, 2]] if steps.swap else rows
