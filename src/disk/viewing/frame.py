"""How to show a model: upright, and seen from the side of its cameras."""

from __future__ import annotations

import numpy as np

from disk.shapes import Bool, Float

_LEVEL = 0.1  # weight of the cameras' up directions against their horizons
_SOME = 500  # cameras sampled to measure the distance between neighbours
_FAR = 0.3  # margin around the box of most points, as a part of its longest side


def upright_rotation(rotations: Float[np.ndarray, "n 3 3"]) -> Float[np.ndarray, "3 3"]:
    """A rotation of the world that makes z point up.

    Photographers keep the horizon level, so up is orthogonal to the cameras' x axes (Brown and Lowe 2007, automatic
    straightening). Where these are all alike, the cameras' up directions decide.
    rotations: R of each camera, x_cam = R x_world + t
    """
    if not len(rotations):
        return np.eye(3)
    right, up = rotations[:, 0], -rotations[:, 1].mean(0)
    scatter = right.T @ right / len(right) - _LEVEL * np.outer(up, up)
    z = np.linalg.eigh(scatter)[1][:, 0]
    z = z if z @ up >= 0 else -z
    x = np.cross(z, np.eye(3)[np.argmin(np.abs(z))])
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def near(points: Float[np.ndarray, "n 3"], centres: Float[np.ndarray, "m 3"]) -> Bool[np.ndarray, " n"]:
    """Which points to show: not the few very far ones that a sparse model may hold, which would shrink it to a dot."""
    if not len(points):
        return np.zeros(0, bool)
    corners = np.concatenate([np.percentile(points, [2, 98], axis=0), centres])
    low, high = corners.min(0), corners.max(0)
    room = _FAR * (high - low).max()
    return ((points >= low - room) & (points <= high + room)).all(1)


def camera_length(centres: Float[np.ndarray, "m 3"], points: Float[np.ndarray, "n 3"]) -> float:
    """The length at which to draw cameras: a small part of the model, and short enough to keep neighbours apart."""
    everything = np.concatenate([points, centres])
    length = 0.05 * float(np.linalg.norm(np.ptp(everything, axis=0))) if len(everything) else 0.0
    if len(centres) > 1:
        some = centres[:: max(1, len(centres) // _SOME)]
        apart = np.linalg.norm(some[:, None] - centres[None], axis=2)
        nearest = np.where(apart > 0, apart, np.inf).min(1)
        length = min(length, max(float(np.median(nearest)), length / 5))
    return length or 1.0


def look_from(points: Float[np.ndarray, "n 3"], centres: Float[np.ndarray, "m 3"]) -> dict[str, float]:
    """plotly's eye: on the side of the model where its cameras are, a little above."""
    side = np.zeros(2)
    if len(points) and len(centres):
        side = (centres.mean(0) - np.median(points, axis=0))[:2]
    if np.linalg.norm(side) <= 0.1 * np.linalg.norm(np.ptp(centres, axis=0)[:2] if len(centres) else 0):
        side = np.array([1.0, -1.0])  # the cameras stand all around
    x, y = 1.35 * side / np.linalg.norm(side)
    return {"x": float(x), "y": float(y), "z": 0.85}
