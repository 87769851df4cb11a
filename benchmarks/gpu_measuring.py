"""The measurement of the GPU benchmarks, and the images and scenes they run on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from disk.datasets.synthesis.sampler import SceneSampler

Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Sizes of the benchmarks, and seconds per table of two methods."""

    device: torch.device
    seconds: float = 8.0
    size: tuple[int, int] = (768, 1024)
    n: int = 2048
    batches: tuple[int, ...] = (1, 8)
    pairs: int = 64
    triplets: int = 8
    triplet_size: tuple[int, int] = (480, 640)
    dense_size: tuple[int, int] = (768, 768)
    rendered: int = 32
    rounds: int = 3


TINY = {
    "seconds": 0.1, "size": (64, 96), "n": 50, "batches": (1, 2), "pairs": 3, "triplets": 1, "triplet_size": (48, 48),
    "dense_size": (48, 48), "rendered": 2, "rounds": 1,
}  # fmt: skip


def measured(methods: dict[str, Callable[[], Any]], plan: Plan, each: int = 1, ratio: bool = True) -> list[Row]:
    """Measure methods: median milliseconds, peak memory above what was allocated, and time relative to the first one.

    each: number of items that one call processes; times are per item.
    ratio: include the relative time.
    """
    cuda = plan.device.type == "cuda"
    memory = {}
    for name, run in methods.items():
        run()  # compiles and tunes on the first call
        synchronise(plan.device)
        if cuda:
            before = torch.cuda.memory_allocated(plan.device)
            torch.cuda.reset_peak_memory_stats(plan.device)
        run()  # the second call records a CUDA graph, with all the memory that replays use
        synchronise(plan.device)
        if cuda:
            memory[name] = (torch.cuda.max_memory_allocated(plan.device) - before) / 1e6
    taken: dict[str, list[float]] = {name: [] for name in methods}
    begun = time.perf_counter()
    while time.perf_counter() - begun < plan.seconds * len(methods) / 2 or len(taken[next(iter(taken))]) < plan.rounds:
        for name, run in methods.items():
            synchronise(plan.device)
            start = time.perf_counter()
            run()
            synchronise(plan.device)
            taken[name].append(time.perf_counter() - start)
    times = {name: 1e3 * median(seconds) / each for name, seconds in taken.items()}
    first = next(iter(times.values()))
    return [
        {
            "method": name,
            "ms": ms,
            **({"ratio": ms / first} if ratio and len(times) > 1 else {}),
            **({"peak_mb": memory[name]} if cuda else {}),
        }
        for name, ms in times.items()
    ]


def synchronise(device: torch.device) -> None:
    """Wait for the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def photographs() -> list[np.ndarray]:
    """Synthetic textures with edges at all scales, made with NumPy and Pillow only."""
    found = []
    for seed in range(6):
        generator = np.random.default_rng(seed)
        total = np.zeros((768, 1024, 3))
        for cells in (6, 12, 24, 48, 96, 192):
            small = generator.integers(0, 256, (cells * 3 // 4, cells, 3), dtype=np.uint8)
            how = Image.Resampling.NEAREST if cells % 24 == 0 else Image.Resampling.BICUBIC
            total += np.asarray(Image.fromarray(small).resize((1024, 768), how), dtype=np.float64) - 127.5
        found.append((127.5 + total / 2).clip(0, 255).astype(np.uint8))
    return found


def pictures(count: int, height: int, width: int) -> Tensor:
    """Images (count, 3, height, width) in [0, 1]."""
    images = [Image.fromarray(photo).resize((width, height)) for photo in photographs()]
    stack = np.stack([np.asarray(images[i % len(images)]) for i in range(count)])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255


def sampler(plan: Plan, size: tuple[int, int]) -> SceneSampler:
    """Create a sampler of triplets of rendered scenes."""
    return SceneSampler(photographs(), *size, 3, plan.device, 0)
