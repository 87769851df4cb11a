"""An image in tiles against the same image whole: what is found again, near the borders of tiles too, and the time.

    python benchmarks/tiles.py PHOTO [--memory-gb 4] [--n 8192]

memory-gb: gigabytes that are taken to be free for the run in tiles; the run of the whole image takes 0.25 (0.4 with
onnxruntime) for each million pixels. Times are processor time.
"""

from __future__ import annotations

import time
from pathlib import Path
from unittest.mock import patch

import torch
import tyro

import disk
from disk.features import Features
from disk.images.inputs import as_pixels
from disk.matching.nearest import mutual_nearest
from disk.model import memory
from disk.model.canvas import pad_to_stride
from disk.model.disk import DISK
from disk.model.tiles import cut

_SAME = 0.1  # pixels


def main(photo: tyro.conf.Positional[Path], memory_gb: float = 4, n: int = 8192) -> None:
    """Print the table."""
    model = disk.load("default", "cpu")
    whole = _timed("whole", model, photo, n, float("inf"))
    tiles = _timed("tiles", model, photo, n, memory_gb * 1e9)

    (image,), _ = as_pixels(photo)
    height, width = pad_to_stride(image.pixels).shape[1:]
    with patch.object(memory, "free_memory", lambda device: memory_gb * 1e9):
        parts = cut(height, width, memory.tile_side(height * width, model.device), 5)
    seen = torch.zeros(height, width, dtype=torch.int32)
    for tile in parts:
        seen[tile.seen] += 1
    x, y = image.placement.from_original()[:2] @ torch.cat([whole.keypoints, torch.ones(len(whole), 1)], 1).numpy().T
    overlap = seen[torch.from_numpy(y).round().long(), torch.from_numpy(x).round().long()] > 1
    again = _close(whole.keypoints, tiles.keypoints) > 0
    pairs = mutual_nearest(whole.descriptors, tiles.descriptors).indices
    same = (whole.keypoints[pairs[:, 0]] - tiles.keypoints[pairs[:, 1]]).norm(dim=1) < _SAME
    cosine = (whole.descriptors[pairs[:, 0]] * tiles.descriptors[pairs[:, 1]]).sum(1)
    twice = _close(tiles.keypoints, tiles.keypoints) > 1
    print(f"{width} x {height}, {len(parts)} tiles of at most {max(t.seen[1].stop - t.seen[1].start for t in parts)}")
    print(f"keypoints, whole and in tiles | {len(whole)}, {len(tiles)}")
    print(f"repeated within {_SAME} pixels | {100 * again.float().mean():.2f} %")
    print(f"repeated in the overlap of tiles | {100 * again[overlap].float().mean():.2f} % of {int(overlap.sum())}")
    print(f"twice | {int(twice.sum())}")
    print(f"mutual nearest neighbours that are the same keypoint | {int(same.sum())} of {len(same)}")
    print(f"least cosine of their descriptors | {cosine[same].min():.6f}")


def _close(points: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """How many of the others are at each point."""
    # differences, because products of coordinates in the thousands lose the digits that count
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cat([(torch.cdist(p, others, compute_mode=exact) < _SAME).sum(1) for p in points.split(512)])


def _timed(name: str, model: DISK, photo: Path, n: int, free: float) -> Features:
    start = time.process_time()
    with patch.object(memory, "free_memory", lambda device: free):
        features = model.detect(photo, n=n, max_size=0)
    print(f"{name}: {time.process_time() - start:.0f} s", flush=True)
    return features


if __name__ == "__main__":
    tyro.cli(main)
