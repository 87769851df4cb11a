"""Small valid files for the tests to damage: artifacts, and a COLMAP model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from disk.storage.artifacts import DESCRIPTORS, KEYPOINTS, MATCHES, SCORES, feature_writer
from disk.storage.shards import SHARD_BYTES, ShardWriter


def features_of(seed: int) -> dict[str, np.ndarray]:
    dice = np.random.default_rng(seed)
    descriptors = dice.normal(size=(5, 128)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    keypoints = dice.uniform(0, 40, (5, 2)).astype(np.float32)
    return {KEYPOINTS: keypoints, DESCRIPTORS: descriptors, SCORES: np.ones(5, np.float32)}


def make_artifacts(folder: Path) -> Path:
    folder.mkdir()
    writer = feature_writer(folder, {}, "weights", False, SHARD_BYTES)
    for seed, name in enumerate(("a", "sub/b")):
        notes = {"image_size": np.array([64, 48]), "image_path": f"{name}.jpg", "orientation": 1, "mask": ""}
        writer.add(name, features_of(seed), notes)
    writer.finish()
    matches = ShardWriter(folder, "matches", [MATCHES], {"format": "disk matches 1", "options": "{}"})
    matches.add("a/sub|b", {MATCHES: np.array([[0, 1], [1, 0]])})
    matches.finish()
    return folder


def make_model(folder: Path, kind: str) -> None:
    """Three images, with spaces in their names, that see four points."""
    pycolmap = pytest.importorskip("pycolmap")
    folder.mkdir()
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera.create_from_model_name(1, "PINHOLE", 50.0, 64, 48)
    model.add_camera_with_trivial_rig(camera)
    for number in (1, 2, 3):
        points = pycolmap.Point2DList([pycolmap.Point2D(np.array([5.0, 6.0 + row])) for row in range(4)])
        image = pycolmap.Image(name=f"im {number}.jpg", camera_id=1, image_id=number, points2D=points)
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(), np.array([float(number), 0, 0]))
        model.add_image_with_trivial_frame(image, pose)
    for row in range(4):
        track = pycolmap.Track()
        for number in (1, 2, 3):
            track.add_element(number, row)
        model.add_point3D(np.array([0.0, 0, 5]), track, np.zeros(3, np.uint8))
    (model.write_binary if kind == "bin" else model.write_text)(folder)
