"""Pictures of a sparse model: its points in their colours, and its cameras as small pyramids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from disk.geometry.camera import Camera, project, unproject
from disk.progress import counted
from disk.shapes import Float, Tensor
from disk.viewing import canvas

WIDTH = 1200  # pixels of the picture without its margins
HEIGHTS = (500, 1000)  # minimum and maximum, without header and legend


@dataclass(frozen=True)
class CameraGroup:
    """Cameras drawn in one colour.

    label: their name in the legend
    image_size: (width, height) in pixels
    length: of their pyramids, in units of the model
    """

    label: str
    colour: str
    cameras: Sequence[Camera]
    image_size: tuple[int, int]
    length: float


def draw_cloud(
    figure: Figure,
    points: Float[np.ndarray, "n 3"],
    colours: Float[np.ndarray, "n 3"],
    groups: Sequence[CameraGroup],
    eye: Camera,
    title: str,
) -> None:
    """Draw points and cameras as seen from `eye`, far ones first.

    The picture is cropped to the cameras and the middle 98 % of the points in x and y, since a sparse model may hold a
    few points very far away.
    colours: RGB in [0, 1]
    eye: only its direction and perspective count
    """
    places, depth = _seen(eye, points)
    edges = [(group, _seen(eye, _pyramids(group))[0].reshape(-1, 2, 2)) for group in groups]
    low, high = _frame(places, np.concatenate([lines.reshape(-1, 2) for _, lines in edges] or [places[:0]]))
    height = float(np.clip(WIDTH * (high[1] - low[1]) / (high[0] - low[0]), *HEIGHTS))
    scale = max((high[0] - low[0]) / WIDTH, (high[1] - low[1]) / height) / 2
    canvas.set_size(figure, WIDTH + 2 * canvas.MARGIN, height + canvas.HEADER + canvas.LEGEND + canvas.MARGIN)
    sheet = canvas.add_axes(figure, canvas.MARGIN, canvas.HEADER, WIDTH, height)
    middle = (low + high) / 2
    sheet.set(
        xlim=(middle[0] - scale * WIDTH, middle[0] + scale * WIDTH),
        ylim=(middle[1] + scale * height, middle[1] - scale * height),
    )
    order = np.argsort(-depth)
    diameter = float(np.clip(np.sqrt(0.12 * WIDTH * height / max(1, len(points))), 2.5, 7))
    sheet.scatter(places[order, 0], places[order, 1], s=canvas.points(diameter) ** 2, c=colours[order], lw=0)
    for group, lines in edges:
        sheet.add_collection(LineCollection(list(lines), colors=group.colour, linewidths=canvas.points(1.8)))
    canvas.add_legend(figure, [(group.colour, group.label) for group in groups])
    canvas.add_title(figure, title, counted(len(points), "point"))


def looking_at(
    eye: Float[np.ndarray, " 3"],
    target: Float[np.ndarray, " 3"],
    up: Float[np.ndarray, " 3"],
    K: Float[Tensor, "3 3"],
) -> Camera:
    """The camera at `eye` that looks at `target`, with `up` upwards in its image."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return Camera(K, torch.from_numpy(rotation), torch.from_numpy(-rotation @ eye))


def _seen(eye: Camera, points: Float[np.ndarray, "n 3"]) -> tuple[np.ndarray, np.ndarray]:
    places, depth = project(eye, torch.from_numpy(points))
    return places.numpy(), depth.numpy()


def _pyramids(group: CameraGroup) -> Float[np.ndarray, "m 3"]:
    """The ends of the eight edges of each camera's pyramid: 16 points per camera."""
    edges = [pyramid(camera, group.image_size, group.length) for camera in group.cameras]
    return np.array(edges).reshape(-1, 3)


def pyramid(camera: Camera, image_size: tuple[int, int], length: float) -> Float[np.ndarray, "16 3"]:
    """The ends of the eight edges of a camera's pyramid in world coordinates: to the corners and around the image."""
    width, height = image_size
    pixels = torch.tensor([[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5]])
    depth = torch.full((4,), length, dtype=camera.R.dtype)
    corners = unproject(camera, pixels.to(camera.R.dtype), depth).double().numpy()
    centre = camera.centre.double().numpy()
    edges = []
    for corner, following in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        edges += [centre, corner, corner, following]
    return np.array(edges)


def _frame(
    points: Float[np.ndarray, "n 2"], corners: Float[np.ndarray, "m 2"]
) -> tuple[Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]]:
    """The corners of the part to show, with a small margin."""
    if len(points):
        corners = np.concatenate([corners, np.percentile(points, [1, 99], axis=0)])
    if not len(corners):
        return np.full(2, -1.0), np.ones(2)
    low, high = corners.min(0), corners.max(0)
    room = 0.03 * (high - low).max() + 1e-9
    return low - room, high + room
