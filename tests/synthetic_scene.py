"""A scene with known cameras: points in space, seen without noise, with descriptors that match.

Everything after detection can be compared with the truth: verification must keep the true matches, and
mapping must recover the cameras.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from disk.storage.artifacts import feature_writer
from disk.storage.locks import folder_lock
from disk.storage.shards import SHARD_BYTES, ShardWriter

WIDTH, HEIGHT, FOCAL = 640, 480, 700.0


@dataclass(frozen=True)
class Scene:
    """names: of the images; R, t: x_cam = R x + t of each; features of each; matches of each pair.

    keypoints follow our convention, (0, 0) is the centre of the first pixel; owners[name][i] is the 3D point of
    feature i, -1 for clutter; matches[pair] are (2, K), of which the last `wrong` columns are wrong.
    """

    names: list[str]
    rotations: dict[str, np.ndarray]
    translations: dict[str, np.ndarray]
    keypoints: dict[str, np.ndarray]
    owners: dict[str, np.ndarray]
    matches: dict[tuple[str, str], np.ndarray]
    wrong: int

    def centres(self, names: list[str]) -> np.ndarray:
        """Positions of cameras, (n, 3)."""
        return np.stack([-self.rotations[name].T @ self.translations[name] for name in names])


def make_scene(names: list[str], points: int = 300, clutter: int = 20, wrong: int = 20, seed: int = 0) -> Scene:
    """Cameras on an arc of 60 degrees around a box of points, all pairs matched with some wrong matches."""
    rng = np.random.default_rng(seed)
    cloud = rng.uniform(-1, 1, (points, 3))
    return _see(names, _on_an_arc(len(names), rng), cloud, clutter, wrong, rng)


def make_rig_scene(
    instants: int, right_from_left: tuple[np.ndarray, np.ndarray], missing: Collection[str] = (), seed: int = 0
) -> Scene:
    """Two cameras that fire together on the same arc, left/0000, right/0000 and so on, except the missing images."""
    rng = np.random.default_rng(seed)
    cloud = rng.uniform(-1, 1, (200, 3))
    R, t = right_from_left
    poses = {}
    for i, left in enumerate(_on_an_arc(instants, rng)):
        poses[f"left/{i:04d}"] = left
        poses[f"right/{i:04d}"] = R @ left[0], R @ left[1] + t
    names = sorted(set(poses) - set(missing))
    return _see(names, (poses[name] for name in names), cloud, 20, 20, rng)


def _on_an_arc(count: int, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for angle in np.linspace(-30, 30, count):
        tilt = rng.uniform(-8, 8)
        yield _about_x(tilt) @ _about_y(angle), np.array([0, 0, 5 + rng.uniform(-0.5, 0.5)])


def _see(
    names: list[str],
    poses: Iterable[tuple[np.ndarray, np.ndarray]],
    cloud: np.ndarray,
    clutter: int,
    wrong: int,
    rng: np.random.Generator,
) -> Scene:
    points = len(cloud)
    scene = Scene(names, {}, {}, {}, {}, {}, wrong)
    for (R, t), name in zip(poses, names, strict=True):
        in_camera = cloud @ R.T + t
        # COLMAP's principal point, the image centre, is half a pixel less when pixels are counted from their centres
        seen = FOCAL * in_camera[:, :2] / in_camera[:, 2:] + [WIDTH / 2 - 0.5, HEIGHT / 2 - 0.5]
        extra = rng.uniform([0, 0], [WIDTH - 1, HEIGHT - 1], (clutter, 2))
        order = rng.permutation(points + clutter)
        scene.rotations[name], scene.translations[name] = R, t
        scene.keypoints[name] = np.concatenate([seen, extra])[order].astype(np.float32)
        scene.owners[name] = np.r_[np.arange(points), np.full(clutter, -1)][order]
    for name0, name1 in itertools.combinations(sorted(names), 2):
        # index of each point among the features of the two images, in a random order per pair
        order = rng.permutation(points)
        place0, place1 = (np.argsort(scene.owners[name])[clutter:][order] for name in (name0, name1))
        right = np.stack([place0, place1])[:, wrong:]
        false = np.stack([place0[:wrong], np.roll(place1[:wrong], 1)])
        scene.matches[name0, name1] = np.concatenate([right, false], axis=1)
    return scene


def write_photos(scene: Scene, folder: Path, suffix: str = ".jpg") -> Path:
    """Small image files of the right size: grey, with a red left half."""
    pixels = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    pixels[:, : WIDTH // 2] = (200, 40, 40)
    for name in scene.names:
        path = folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def write_features(scene: Scene, artifacts: Path, names: list[str] | None = None, suffix: str = ".jpg") -> None:
    """Write what `disk detect` would write, with a distinct descriptor for each 3D point."""
    rng = np.random.default_rng(1)
    codes = rng.normal(size=(1000, 32))
    with folder_lock(artifacts):
        writer = feature_writer(artifacts, {"n": 4096}, "synthetic", False, SHARD_BYTES)
        for name in scene.names:
            owners = scene.owners[name]
            noise = rng.normal(size=(len(owners), 32))
            if names is not None and name not in names:
                continue  # its noise is drawn nevertheless, so that an image always has the same features
            rows = np.where(owners[:, None] >= 0, codes[owners] + 0.05 * noise, noise)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            arrays = {
                "keypoints.h5": scene.keypoints[name],
                "descriptors.h5": rows.astype(np.float32),
                "scores.h5": np.ones(len(rows), np.float32),
            }
            writer.add(name, arrays, {"image_size": (WIDTH, HEIGHT), "image_path": f"{name}{suffix}"})
        writer.finish()


def write_matches(scene: Scene, artifacts: Path, options: str = "as they are") -> None:
    """Write what `disk match` would write."""
    with folder_lock(artifacts):
        attributes = {"format": "disk matches 1", "options": json.dumps({"made": options})}
        writer = ShardWriter(artifacts, "matches", ["matches.h5"], attributes)
        for (name0, name1), matches in scene.matches.items():
            writer.add(f"{name0.replace('/', '|')}/{name1.replace('/', '|')}", {"matches.h5": matches})
        writer.finish()


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _about_x(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _about_y(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
