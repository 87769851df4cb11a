"""A world of points seen by a few cameras, written as images, pairs and artifacts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from skimage import data

from disk.evaluation.ground_truth import View
from disk.features import Features

WIDTH, HEIGHT = 640, 480
K = np.array([[600.0, 0, 320], [0, 610, 240], [0, 0, 1]])


@dataclass(frozen=True)
class World:
    """images/, pairs.txt, and a folder of artifacts in which every point has a distinct descriptor."""

    root: Path
    names: list[str]

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def pairs(self) -> Path:
        return self.root / "pairs.txt"

    @property
    def artifacts(self) -> Path:
        return self.root / "perfect"


def write_artifacts(
    folder: Path, keypoints: dict[str, np.ndarray], descriptors: dict[str, np.ndarray], **scores: np.ndarray
) -> Path:
    folder.mkdir(parents=True)
    with h5py.File(folder / "keypoints.h5", "w") as kps, h5py.File(folder / "descriptors.h5", "w") as descs:
        for name in keypoints:
            kps[name] = keypoints[name].astype(np.float32)
            descs[name] = descriptors[name].astype(np.float32)
    return folder


def unit(rng: np.random.Generator, n: int, length: int = 32) -> np.ndarray:
    vectors = rng.normal(size=(n, length))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def pair_line(name0: str, name1: str, K0: np.ndarray, K1: np.ndarray, R: np.ndarray, t: np.ndarray) -> str:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, t
    numbers = " ".join(f"{x:.17g}" for part in (K0, K1, T) for x in part.ravel())
    return f"{name0}.png {name1}.png 0 0 {numbers}\n"


def make_world(root: Path, scale: int = 1, noise: float = 0.0, points: int = 80, views: int = 4) -> World:
    """The same world at any scale: images, K and keypoints scale together ((0, 0) stays the first pixel's centre)."""
    rng = np.random.default_rng(0)
    world = rng.uniform([-2, -1.5, 5], [2, 1.5, 9], (points, 3))
    descriptors = unit(rng, points)
    keypoints, found, cameras = {}, {}, {}
    names = [f"v{i}" for i in range(views)]
    (root / "images").mkdir(parents=True)
    S = np.diag([scale, scale, 1.0])
    for i, name in enumerate(names):
        R = Rotation.from_rotvec(rng.normal(size=3) * 0.08).as_matrix()
        t = np.array([0.6 * i, 0.1 * i, 0.05 * i])
        pixels = (world @ R.T + t) @ K.T
        pixels = pixels[:, :2] / pixels[:, 2:] + noise * rng.normal(size=(points, 2))
        order = rng.permutation(points)
        keypoints[name], found[name], cameras[name] = scale * pixels[order], descriptors[order], (R, t)
        Image.new("RGB", (WIDTH * scale, HEIGHT * scale)).save(root / "images" / f"{name}.png")
    lines = []
    for i, name0 in enumerate(names):
        for name1 in names[i + 1 :]:
            (R0, t0), (R1, t1) = cameras[name0], cameras[name1]
            R = R1 @ R0.T
            lines.append(pair_line(name0, name1, S @ K, S @ K, R, t1 - R @ t0))
    (root / "pairs.txt").write_text("".join(lines))
    write_artifacts(root / "perfect", keypoints, found)
    return World(root, names)


def photo(height: int, width: int, offset: int = 0) -> np.ndarray:
    """A crop of a photo, uint8 (height, width, 3); each offset gives another crop."""
    return np.ascontiguousarray(data.astronaut()[offset : offset + height, offset : offset + width])


def spots(image: np.ndarray, n: int) -> Features:
    """A detector of the pixels that are pure red."""
    y, x = np.nonzero((image == [255, 0, 0]).all(axis=2))
    points = torch.from_numpy(np.stack([x, y], 1)).float()[:n]
    return Features(points, torch.ones(len(points), 1), torch.ones(len(points)))


def write_photo(path: Path, seed: int = 0) -> View:
    Image.fromarray(photo(96, 128, seed)).save(path)
    return View(path, path.stem)
