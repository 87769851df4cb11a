"""A folder of photos of a scene at a known position on earth."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from scene_folder import SceneFolder

from disk.geometry.pose import rotation_error
from geotagged import axes_at, geodetic, geotag, gps_tags, local
from synthetic_scene import Scene, make_scene

NAMES = [f"{letter}" for letter in "abcdefgh"]
ORIGIN = (-33.9, 179.9999, 12.0)  # south, and so near the date line that some photos lie beyond it
SCALE = 20.0
TURN = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])


class Place(SceneFolder):
    """A scene at a known position on earth; `truth` are the cameras' positions there in metres."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene: Scene | None = None) -> None:
        super().__init__(tmp_path, scene or make_scene(list(NAMES), points=120, wrong=0), monkeypatch)
        self.truth = SCALE * self.scene.centres(self.scene.names) @ TURN.T + [3, -2, 30]

    def tag(self, moved: dict[str, list[float]] | None = None, names: list[str] | None = None) -> None:
        """Write positions into the photos' EXIF, some of them moved by some metres."""
        for name, position in zip(self.scene.names, self.truth, strict=True):
            if names is None or name in names:
                place = geodetic(position + (moved or {}).get(name, [0, 0, 0]), ORIGIN)
                geotag(self.photos / f"{name}.jpg", gps_tags(*place))

    def errors(self, origin: tuple[float, float, float]) -> tuple[float, float, float]:
        """Of the model: largest position error, largest relative error of a distance, and rotation error (deg)."""
        import pycolmap

        model = pycolmap.Reconstruction(self.out / "sparse" / "0")
        images = {image.name.removesuffix(".jpg"): image for image in model.images.values()}
        truth = np.array([local(*geodetic(position, ORIGIN), origin) for position in self.truth])
        centres = np.array([images[name].projection_center() for name in self.scene.names])
        extent = np.linalg.norm(truth - truth.mean(0), axis=1).max()
        pairs = list(itertools.combinations(range(len(truth)), 2))
        distances, true = (np.array([np.linalg.norm(p[i] - p[j]) for i, j in pairs]) for p in (centres, truth))
        # the axes at the model's origin differ from those at the truth's, due to the curvature of the earth
        turn = axes_at(*origin[:2]) @ axes_at(*ORIGIN[:2]).T @ TURN
        rotations = [
            rotation_error(images[name].cam_from_world().rotation.matrix() @ turn, self.scene.rotations[name])
            for name in self.scene.names
        ]
        return (
            float(np.linalg.norm(centres - truth, axis=1).max() / extent),
            float(np.abs(distances / true - 1).max()),
            max(rotations),
        )
