"""The picture of a model: the view, points and cameras in their places, outliers skipped."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from viewing_helpers import pixels, texts

from disk.geometry.camera import project
from disk.viewing import canvas
from disk.viewing.cloud import CameraGroup, draw_cloud, looking_at

K = torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]], dtype=torch.float64)


def test_the_camera_looks_at_its_target_with_up_upwards() -> None:
    camera = looking_at(np.array([3.0, -4, 2]), np.array([0.5, 0, 1]), np.array([0, 0, 1.0]), K)
    np.testing.assert_allclose(camera.R @ camera.R.T, np.eye(3), atol=1e-12)
    assert torch.linalg.det(camera.R) > 0
    points = torch.tensor([[0.5, 0, 1], [0.5, 0, 1.5], [3, -4, 2]], dtype=torch.float64)
    seen, depth = project(camera, points)
    np.testing.assert_allclose(seen[0], [320, 240], atol=1e-9)
    assert depth[0] > 0
    assert seen[1, 1] < 230  # higher in the world, higher in the image
    np.testing.assert_allclose(depth[2], 0, atol=1e-12)


def above() -> object:
    return looking_at(np.array([0, 0, 50.0]), np.zeros(3), np.array([0, 1.0, 0]), torch.eye(3, dtype=torch.float64))


def test_points_from_above_are_a_map() -> None:
    """East is right, north is up, and each point has its colour."""
    corners = np.array([[-1, 0, 0], [1, 0, 0], [0, 1, 0], [0, -1, 0.0]])
    colours = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0.0]])
    # so many that the frame ends at the corners
    figure = Figure()
    draw_cloud(figure, np.repeat(corners, 50, 0), np.repeat(colours, 50, 0), [], above(), "map")
    picture = pixels(figure)[canvas.HEADER : -60].astype(int)
    places = {}
    for name, channel in (("west", 0), ("east", 1), ("north", 2)):
        others = [c for c in range(3) if c != channel]
        lit = (picture[..., channel] > 180) & (picture[..., others].max(2) < 80)
        places[name] = np.argwhere(lit).mean(0)
    assert places["west"][1] < places["north"][1] < places["east"][1]
    assert places["north"][0] < places["west"][0] - 100
    np.testing.assert_allclose(places["west"][0], places["east"][0], atol=2)


def test_a_point_far_away_does_not_shrink_the_rest() -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform(-1, 1, (500, 3))
    limits = []
    for extra in (np.zeros((0, 3)), np.full((3, 3), 1e4) * [1, 1, 0]):
        figure, cloud = Figure(), np.concatenate([points, extra])
        draw_cloud(figure, cloud, np.zeros_like(cloud), [], above(), "cloud")
        limits.append(np.ptp(figure.axes[0].get_xlim()))
    assert limits[1] < 1.05 * limits[0]


def test_cameras_are_pyramids_with_a_legend() -> None:
    camera = looking_at(np.array([0, -2.0, 0]), np.zeros(3), np.array([0, 0, 1.0]), K)
    figure = Figure()
    group = CameraGroup("true cameras", "#ff0000", [camera, camera], (640, 480), 0.5)
    draw_cloud(figure, np.zeros((0, 3)), np.zeros((0, 3)), [group], above(), "cameras")
    (lines,) = (c for c in figure.axes[0].collections if isinstance(c, LineCollection))
    segments = np.array(lines.get_segments())
    assert segments.shape == (16, 2, 2)  # eight edges each
    # seen from 50 above, the apex is at (0, -2) / 50 on the map, y down
    np.testing.assert_allclose(segments[0, 0], [0, 2 / 50], atol=1e-9)
    assert "true cameras" in texts(figure)
    assert "0 points" in texts(figure)
    pixels(figure)
