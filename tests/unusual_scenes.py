"""Scenes that are easily misread: watermarks across unrelated photos, and pure rotation."""

from __future__ import annotations

import itertools

import numpy as np

from synthetic_scene import FOCAL, HEIGHT, WIDTH, Scene, make_scene

STAMP = 60  # points of a date stamp in the lower right corner
_STAMP_OWNER = 900


def stamped_scenes(count: int = 3, views: int = 3, points: int = 120, wrong: int = 0) -> Scene:
    """Unrelated scenes, with the same date stamp at the same pixels of every photo; images s0v0, s0v1, ...

    wrong: number of random matches added to each pair.
    """
    rng = np.random.default_rng(11)
    stamp = rng.uniform([540, 448], [632, 472], (STAMP, 2)).astype(np.float32)
    whole = Scene([], {}, {}, {}, {}, {}, 0)
    for number in range(count):
        scene = make_scene([f"s{number}v{view}" for view in range(views)], points, wrong=0, seed=number)
        for name in scene.names:
            owners = scene.owners[name]
            whole.names.append(name)
            whole.rotations[name], whole.translations[name] = scene.rotations[name], scene.translations[name]
            whole.keypoints[name] = np.concatenate([scene.keypoints[name], stamp])
            own = np.where(owners >= 0, owners + number * points, -1)
            whole.owners[name] = np.concatenate([own, _STAMP_OWNER + np.arange(STAMP)])
    for first, second in itertools.combinations(whole.names, 2):
        chance = rng.permutation(points)[:wrong], rng.permutation(points)[:wrong]
        whole.matches[first, second] = np.concatenate([same_owners(whole, first, second), chance], axis=1)
    return whole


def turning_scene(names: list[str], degrees: float = 6.0, noise: float = 0.3, seed: int = 0) -> Scene:
    """A camera with pure rotation, by `degrees` from photo to photo."""
    rng = np.random.default_rng(seed)
    cloud = rng.uniform([-8, -4, 4], [8, 4, 9], (900, 3))
    scene = Scene(names, {}, {}, {}, {}, {}, 0)
    for number, name in enumerate(names):
        angle = np.radians(degrees * (number - (len(names) - 1) / 2))
        c, s = np.cos(angle), np.sin(angle)
        R = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        seen = cloud @ R.T
        pixels = FOCAL * seen[:, :2] / seen[:, 2:] + [WIDTH / 2 - 0.5, HEIGHT / 2 - 0.5]
        pixels += rng.normal(0, noise, pixels.shape)
        inside = (seen[:, 2] > 0) & (pixels > 0).all(1) & (pixels < [WIDTH - 1, HEIGHT - 1]).all(1)
        scene.rotations[name], scene.translations[name] = R, np.zeros(3)
        scene.keypoints[name] = pixels[inside].astype(np.float32)
        scene.owners[name] = np.flatnonzero(inside)
    for first, second in itertools.combinations(names, 2):
        scene.matches[first, second] = same_owners(scene, first, second)
    return scene


def same_owners(scene: Scene, first: str, second: str) -> np.ndarray:
    """Matches between features of the same point, (2, K)."""
    _, left, right = np.intersect1d(scene.owners[first], scene.owners[second], return_indices=True)
    known = scene.owners[first][left] >= 0
    return np.stack([left[known], right[known]])
