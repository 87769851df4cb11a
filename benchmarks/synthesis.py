"""Rendering of training tuples against the training step that uses them: rendering must be much faster.

    python benchmarks/synthesis.py [--sizes 256 768] [--views 3] [--photos FOLDER] [--device cuda --precision bf16]

As in `disk train --synthesize`, a GPU renders many batches at once, a CPU one by one. Rendering, augmentation and step
take turns in one process, so that drifts of the machine's speed cancel out; figures are medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
import tyro

from disk.datasets.records import PosedImage
from disk.datasets.synthesis.sampler import SceneSampler
from disk.model.disk import DISK
from disk.training.augment import augment
from disk.training.schedule import weights_at
from disk.training.step import Objective, accumulate_gradient, tuple_generator

BATCHES_ON_GPU = 16
OBJECTIVE = Objective(weights=weights_at("default", 5))


def main(
    sizes: tuple[int, ...] = (256, 768),
    views: int = 3,
    batch: int = 2,
    rounds: int = 10,
    photos: Path | None = None,
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
) -> None:
    """Print a table of images per second.

    Args:
        sizes: heights and widths of the images
        views: number of images per tuple
        batch: number of tuples per step
        rounds: number of measurements, after one to warm up
        photos: folder of photos; default: those that ship with scikit-image
        device: cpu or cuda
        precision: precision of the network
    """
    at_once = 1 if device == "cpu" else BATCHES_ON_GPU
    torch.manual_seed(0)
    model = DISK().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0)
    textures = shipped_photos() if photos is None else photos
    print(f"{torch.get_num_threads()} threads, {device}, {precision}; {batch} tuples of {views} per step; images/s")
    print(f"{'size':>5} {'render':>9} {'augment':>9} {'step':>9} {'render/step':>12}")
    for size in sizes:
        sampler = SceneSampler(textures, size, size, views, device, 0)
        taken: dict[str, list[float]] = {"render": [], "augment": [], "step": []}
        for number in range(rounds + 1):
            first = number * at_once * batch
            tuples, render = timed(lambda: sampler.tuples(range(first, first + at_once * batch)), device)  # noqa: B023
            images = torch.stack([torch.stack([view.image for view in views]) for views in tuples[:batch]])
            generators = [torch.Generator().manual_seed(number + i) for i in range(batch)]
            _, change = timed(lambda: augment(images, generators), device)  # noqa: B023
            _, step = timed(lambda: train(model, optimizer, tuples[:batch], device, precision), device)  # noqa: B023
            if number > 0:
                for name, seconds in (("render", render / at_once), ("augment", change), ("step", step)):
                    taken[name].append(seconds)
        rates = {name: batch * views / median(seconds) for name, seconds in taken.items()}
        columns = " ".join(f"{rates[name]:9.1f}" for name in taken)
        print(f"{size:5} {columns} {rates['render'] / rates['step']:12.1f}", flush=True)


def shipped_photos() -> list[np.ndarray]:
    """Photos that ship with scikit-image."""
    from skimage.data import astronaut, chelsea, coffee, stereo_motorcycle

    return [astronaut(), chelsea(), coffee(), *stereo_motorcycle()[:2]]


def train(
    model: DISK, optimizer: torch.optim.Optimizer, tuples: list[list[PosedImage]], device: str, precision: str
) -> None:
    """Run one training step; a learning rate of 0 makes all steps the same."""
    generators = [tuple_generator(0, i, "keypoints", torch.device(device)) for i in range(len(tuples))]
    accumulate_gradient(model, tuples, generators, OBJECTIVE, bf16=precision == "bf16")
    optimizer.step()
    optimizer.zero_grad()


def timed(work: Callable[[], Any], device: str) -> tuple[Any, float]:
    """The result and its seconds, including the GPU's work."""
    start = time.perf_counter()
    result = work()
    if device != "cpu":
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    tyro.cli(main)
