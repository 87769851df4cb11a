"""Workspaces written by pycolmap itself, whose images have a bright spot where the cameras see each point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
from PIL import Image

from disk.colmap.workspace import WorkspaceImage

WIDTH, HEIGHT = 160, 120
PARAMS = {
    "PINHOLE": [150.0, 140.0, 83.0, 57.0],
    "SIMPLE_PINHOLE": [150.0, 83.0, 57.0],
    "SIMPLE_RADIAL": [150.0, 83.0, 57.0, -0.2],
    "OPENCV": [150.0, 140.0, 83.0, 57.0, -0.2, 0.05, 0.01, -0.005],
    "OPENCV_FISHEYE": [150.0, 150.0, 83.0, 57.0, 0.01, 0.0, 0.0, 0.0],
}
NAMES = ("a.png", "sub/b.c.png", "sub/d.png")
# far apart in every image, so that each has a separate bright spot
POINTS = np.array([[-1.2, -0.7, 5.0], [1.1, -0.6, 5.5], [0.0, 0.1, 4.5], [-1.0, 0.8, 6.0], [1.3, 0.9, 5.0]])


def make_workspace(root: Path, model: str = "PINHOLE", folder: str = "sparse", binary: bool = True) -> Path:
    """Three cameras side by side, the last without any point."""
    reconstruction = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model=model, width=WIDTH, height=HEIGHT, params=PARAMS[model], camera_id=1)
    reconstruction.add_camera_with_trivial_rig(camera)
    for index, name in enumerate(NAMES):
        turn = pycolmap.Rotation3d(np.array([0, np.sin(0.05 * index), 0, np.cos(0.05 * index)]))
        pose = pycolmap.Rigid3d(turn, np.array([-0.3 * index, 0.05 * index, 0.1]))
        pixels = [camera.img_from_cam(point) for point in pose * POINTS]
        image = pycolmap.Image(name=name, camera_id=1, image_id=index + 1, keypoints=np.array(pixels))
        reconstruction.add_image_with_trivial_frame(image, pose)
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(np.array(pixels) - 0.5)).save(path)
    for number, point in enumerate(POINTS):
        seen_by = range(1, 3) if number else range(1, 2)
        track = pycolmap.Track([pycolmap.TrackElement(image_id, number) for image_id in seen_by])
        reconstruction.add_point3D(point, track, np.zeros(3, dtype=np.uint8))
    (root / folder).mkdir(parents=True, exist_ok=True)
    (reconstruction.write_binary if binary else reconstruction.write_text)(root / folder)
    return root


def draw(pixels: np.ndarray) -> np.ndarray:
    """Bright spots at pixels; (0, 0) is the centre of the first pixel."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    values = sum(np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 2.0**2)) for cx, cy in pixels)
    return np.repeat(np.uint8(255 * np.clip(values, 0, 1))[:, :, None], 3, axis=2)


def spot(image: np.ndarray, near: np.ndarray, radius: int = 7) -> np.ndarray:
    """Centre of the bright spot around a pixel."""
    x, y = near.round().astype(int)
    rows, columns = np.mgrid[y - radius : y + radius + 1, x - radius : x + radius + 1]
    weights = image[rows, columns, 0].astype(float)
    return np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()


def check_spots(folder: Path, image: WorkspaceImage, tolerance: float) -> None:
    """K, R, t project the points into their spots."""
    pixels = np.asarray(Image.open(folder / image.name).convert("RGB"))
    in_camera = POINTS @ image.R.T + image.t
    projected = in_camera @ image.K.T
    projected = projected[:, :2] / projected[:, 2:]
    inside = (projected > 8).all(axis=1) & (projected < (image.width - 9, image.height - 9)).all(axis=1)
    assert inside.sum() >= 3
    for expected in projected[inside]:
        np.testing.assert_allclose(spot(pixels, expected), expected, atol=tolerance)
