"""Features of made collections, without images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from disk.storage.artifacts import DESCRIPTORS, KEYPOINTS, SCORES, feature_writer
from disk.storage.shards import SHARD_BYTES

WIDTH, HEIGHT, FOCAL = 640, 480, 500.0
_STEP = 0.2  # metres from one camera of the street to the next; a view is 5 to 10 metres wide
OVERLAP = 25  # images from one to the last that sees some of the same
_NOISE = 0.05  # of each value of a descriptor of unit length


def crowd(folder: Path, count: int, features: int) -> None:
    """Images that all see the same points, with noise: every pair has some matches."""
    rng = np.random.default_rng(0)
    points = _unit(rng.normal(size=(2 * features, 128)))
    seen = ((rng.permutation(len(points))[:features], rng.uniform(0, 400, (features, 2))) for _ in range(count))
    _write(folder, ((keypoints, _seen(rng, points[which])) for which, keypoints in seen))


def street(folder: Path, count: int, features: int, photos: Path | None = None) -> None:
    """Images of a street from a car, half of whose features are its points and half are found in that image alone.

    photos: where a small photo of each image is put, grey but for its number.
    """
    rng = np.random.default_rng(0)
    length = count * _STEP
    # about twice as many as an image needs in its field of view
    world = rng.uniform((-8, -2, 4), (length + 8, 2, 8), (int(features * (length + 16) / 6), 3))
    order = world[:, 0].argsort()
    world = world[order]
    descriptors = _unit(rng.normal(size=(len(world), 128))).astype(np.float32)

    def views() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for i in range(count):
            first, last = world[:, 0].searchsorted((i * _STEP - 6, i * _STEP + 6))
            near = world[first:last] - (i * _STEP, 0, 0)
            pixels = FOCAL * near[:, :2] / near[:, 2:] + (WIDTH / 2, HEIGHT / 2)
            inside = ((pixels > 0) & (pixels < (WIDTH - 1, HEIGHT - 1))).all(1).nonzero()[0][: features // 2]
            own = features - len(inside)
            keypoints = np.concatenate(
                [pixels[inside] + rng.normal(0, 0.3, (len(inside), 2)), rng.uniform(0, HEIGHT, (own, 2))]
            )
            found = _seen(rng, descriptors[first:last][inside])
            yield keypoints, np.concatenate([found, _unit(rng.normal(size=(own, 128)))])

    _write(folder, views())
    if photos:
        photos.mkdir()
        for i in range(count):
            Image.new("L", (WIDTH, HEIGHT), i % 256).save(photos / f"{i:06}.png")


def _write(folder: Path, images: Iterator[tuple[np.ndarray, np.ndarray]]) -> None:
    folder.mkdir()
    writer = feature_writer(folder, {}, "made", False, SHARD_BYTES)
    for i, (keypoints, descriptors) in enumerate(images):
        arrays = {
            KEYPOINTS: keypoints.astype(np.float32),
            DESCRIPTORS: descriptors.astype(np.float32),
            SCORES: np.ones(len(keypoints), np.float32),
        }
        name = f"{i:06}"
        writer.add(name, arrays, {"image_size": (WIDTH, HEIGHT), "image_path": f"{name}.png"})
    writer.finish()


def _seen(rng: np.random.Generator, descriptors: np.ndarray) -> np.ndarray:
    return _unit(descriptors + rng.normal(0, _NOISE, descriptors.shape))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
