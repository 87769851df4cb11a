"""Synthetic features with known matches, without images."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import torch

from disk.matching.nearest import mutual_nearest
from disk.storage.artifacts import DESCRIPTORS, KEYPOINTS, SCORES, feature_writer, read_features
from disk.storage.shards import SHARD_BYTES

COUNTS = {"a": 40, "b": 30, "blank": 0, "sub/c": 25, "sub/one": 1}


def make_artifacts(
    folder: Path,
    counts: dict[str, int] = COUNTS,
    *,
    sizes: dict[str, tuple[int, int]] | None = None,
    **options: object,
) -> Path:
    """Features that all see the same 60 points, with noise."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(60, 128, generator=generator)
    folder.mkdir(exist_ok=True)
    writer = feature_writer(folder, {"n": 40, **options}, "weights", False, SHARD_BYTES)
    for name, count in counts.items():
        seen = torch.randint(60, (count,), generator=generator)
        noise = 0.5 * torch.randn(count, 128, generator=generator)
        descriptors = torch.nn.functional.normalize(points[seen] + noise, dim=1)
        arrays = {
            KEYPOINTS: 10 + 40 * torch.rand(count, 2, generator=generator).numpy(),
            DESCRIPTORS: descriptors.numpy(),
            SCORES: np.zeros(count, np.float32),
        }
        writer.add(name, arrays, {"image_size": (sizes or {}).get(name, (60, 60)), "image_path": f"{name}.jpg"})
    writer.finish()
    return folder


def contents(path: Path) -> dict[str, list]:
    """Read the file as the original's tools do: one group per first image, one dataset per second image."""
    with h5py.File(path) as file:
        return {
            f"{key0} {key1}": [str(group[key1].dtype), group[key1][()].tolist()]
            for key0, group in file.items()
            for key1 in group
        }


def expected(artifacts: Path, pair: tuple[str, str], ratio: float | None) -> np.ndarray:
    with read_features(artifacts) as store:
        d0, d1 = (store[name].descriptors for name in pair)
    return mutual_nearest(d0, d1, ratio).indices.T.numpy()
