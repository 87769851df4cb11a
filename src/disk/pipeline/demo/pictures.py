"""Pictures of the demo's model with the true cameras."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from disk.geometry.camera import Camera
from disk.pipeline.demo.alignment import Alignment, Pose, aligned_camera
from disk.viewing import canvas
from disk.viewing.cloud import CameraGroup, draw_cloud, looking_at

TRUE, ESTIMATED = "#2f6fed", "#e8482b"
PYRAMID = 0.35  # length of a drawn camera, in metres


def draw_model(
    out: Path,
    estimated: Mapping[str, Pose],
    cameras: Mapping[str, Camera],
    alignment: Alignment,
    size: tuple[int, int],
    folder: Path,
) -> list[tuple[Path, str]]:
    """Save pictures of the points and both sets of cameras, from behind the cameras and from above.

    Returns (file, caption) of each.
    """
    from disk.colmap.points import read_points

    xyz, colours = read_points(out / "sparse" / "0")
    points = alignment.scale * xyz @ alignment.R.T + alignment.t
    registered = [aligned_camera(estimated[name], cameras[name].K, alignment) for name in sorted(estimated)]
    groups = [
        CameraGroup("true cameras", TRUE, list(cameras.values()), size, PYRAMID),
        CameraGroup("estimated cameras", ESTIMATED, registered, size, 0.85 * PYRAMID),
    ]
    drawn = []
    for name, title, eye, up, caption in (
        ("cloud", "The model", (-2.5, -9.0, 6.5), (0, 0, 1), "The sparse model, from behind the cameras."),
        ("top", "The model from above", (0, 0, 60.0), (0, 1, 0), "Boxes, floor and walls from above."),
    ):
        figure = canvas.new_figure()
        camera = looking_at(np.array(eye), np.zeros(3), np.array(up, float), torch.eye(3, dtype=torch.float64))
        draw_cloud(figure, points, colours / 255, groups, camera, title)
        drawn.append((canvas.save(figure, folder / f"{name}.png"), caption))
    return drawn
