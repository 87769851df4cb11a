"""How a model stands when it is shown: upright, and looked at from where its cameras are."""

from __future__ import annotations

import numpy as np

from disk.shapes import Bool, Float

_LEVEL = 0.1  # weight of the cameras' own up against their horizons
_SOME = 500  # cameras whose neighbours tell how dense they stand
_FAR = 0.3  # of the box of most points: what may lie around it


def upright_rotation(rotations: Float[np.ndarray, "n 3 3"]) -> Float[np.ndarray, "3 3"]:
    """A rotation of the world that makes z up. rotations: x_cam = R x + t of each camera.

    Photographers keep the horizon level, so up is orthogonal to the cameras' x axes (Brown and Lowe 2007, automatic
    straightening). Where these are all alike, the cameras' own up decides.
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
    """Which points to show: a sparse model may hold a few that are very far away, beside which it would be a dot."""
    if not len(points):
        return np.zeros(0, bool)
    corners = np.concatenate([np.percentile(points, [2, 98], axis=0), centres])
    low, high = corners.min(0), corners.max(0)
    room = _FAR * (high - low).max()
    return ((points >= low - room) & (points <= high + room)).all(1)


def camera_length(centres: Float[np.ndarray, "m 3"], points: Float[np.ndarray, "n 3"]) -> float:
    """How long to draw cameras: a small part of the model, but not so long that neighbours overlap."""
    everything = np.concatenate([points, centres])
    length = 0.05 * float(np.linalg.norm(np.ptp(everything, axis=0))) if len(everything) else 0.0
    if len(centres) > 1:
        some = centres[:: max(1, len(centres) // _SOME)]
        apart = np.linalg.norm(some[:, None] - centres[None], axis=2)
        nearest = np.where(apart > 0, apart, np.inf).min(1)
        length = min(length, max(float(np.median(nearest)), length / 5))
    return length or 1.0


def look_from(points: Float[np.ndarray, "n 3"], centres: Float[np.ndarray, "m 3"]) -> dict[str, float]:
    """plotly's eye: on the side of the model that its cameras are on, a little above."""
    side = np.zeros(2)
    if len(points) and len(centres):
        side = (centres.mean(0) - np.median(points, axis=0))[:2]
    if np.linalg.norm(side) <= 0.1 * np.linalg.norm(np.ptp(centres, axis=0)[:2] if len(centres) else 0):
        side = np.array([1.0, -1.0])  # the cameras stand all around
    x, y = 1.35 * side / np.linalg.norm(side)
    return {"x": float(x), "y": float(y), "z": 0.85}
