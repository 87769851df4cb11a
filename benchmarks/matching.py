"""Matching of two images, many pairs and a whole collection, against the original's formula and kornia.

    python benchmarks/matching.py [--device cuda]

Each round runs all methods on the same descriptors, one after the other; figures are medians over rounds of the ratio
within a round. On a CPU, peak memory is the growth of a new process's resident set during one call (Linux only). On a
GPU, it is the peak of torch's allocator above the descriptors.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from disk.matching.nearest import mutual_nearest, mutual_nearest_pairs
from disk.pipeline.match import MatchOptions, match
from disk.storage.artifacts import DESCRIPTORS, KEYPOINTS, SCORES, feature_writer
from disk.storage.shards import SHARD_BYTES

RATIO = 0.95


def original(d0: Tensor, d1: Tensor) -> Tensor:
    """The original's formula: distance matrix, two nearest neighbours in both directions, mutual matches."""
    distances = (2 - 2 * (d0 @ d1.T)).clamp(min=1e-6).sqrt()
    near0, index0 = distances.topk(2, dim=1, largest=False)
    near1, index1 = distances.topk(2, dim=0, largest=False)
    rows, columns = torch.arange(len(d0), device=d0.device), torch.arange(len(d1), device=d0.device)
    forward = torch.stack([rows, index0[:, 0]], 1)[near0[:, 0] / near0[:, 1] < RATIO]
    backward = torch.stack([index1[0], columns], 1)[near1[0] / near1[1] < RATIO]
    pairs, counts = torch.cat([forward, backward]).unique(dim=0, return_counts=True)
    return pairs[counts == 2]


def kornia(d0: Tensor, d1: Tensor) -> Tensor:
    """kornia's mutual nearest neighbours, without a ratio test."""
    from kornia.feature import match_mnn

    return match_mnn(d0, d1)[1]


def ours(d0: Tensor, d1: Tensor) -> Tensor:
    """Mutual nearest neighbours with the ratio test."""
    return mutual_nearest(d0, d1, RATIO).indices


def ours_without_ratio(d0: Tensor, d1: Tensor) -> Tensor:
    """Mutual nearest neighbours without a ratio test, like kornia's."""
    return mutual_nearest(d0, d1).indices


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "original": original,
    "kornia": kornia,
    "disk": ours,
    "disk, no ratio": ours_without_ratio,
}


def descriptors(n: int, seed: int, common: int = 0) -> Tensor:
    """Unit descriptors; half of them see the same points for all seeds."""
    shared = torch.randn(n // 2, 128, generator=torch.Generator().manual_seed(common))
    generator = torch.Generator().manual_seed(seed)
    points = torch.cat([shared, torch.randn(n - n // 2, 128, generator=generator)])
    points = points + 0.5 * torch.randn(n, 128, generator=generator)
    return torch.nn.functional.normalize(points[torch.randperm(n, generator=generator)])


def growth(method: str, n: int) -> float:
    """Peak growth of this process's memory in MB during one call, after warming up."""
    function = METHODS[method]
    function(descriptors(64, 1), descriptors(64, 2))
    d0, d1 = descriptors(n, 1), descriptors(n, 2)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current size
    before = resident("VmRSS")
    function(d0, d1)
    return resident("VmHWM") - before


def resident(what: str) -> float:
    """VmRSS or VmHWM of this process, in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def seconds_of(function: Callable[[], object], device: str) -> float:
    """Seconds of a call, including its work on a GPU."""
    synchronize(device)
    start = perf_counter()
    function()
    synchronize(device)
    return perf_counter() - start


def synchronize(device: str) -> None:
    """Wait for the GPU."""
    if device != "cpu":
        torch.cuda.synchronize()


def peak(method: str, n: int, device: str) -> float:
    """Peak memory of one call in MB, above the descriptors."""
    if device == "cpu":
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            return pool.apply(growth, (method, n))
    d0, d1 = descriptors(n, 1).to(device), descriptors(n, 2).to(device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    METHODS[method](d0, d1)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def compare(n: int, rounds: int, device: str) -> None:
    """Print the table for n x n descriptors."""
    d0, d1 = descriptors(n, 1).to(device), descriptors(n, 2).to(device)
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    for function in METHODS.values():
        function(d0, d1)
    for _ in range(rounds):
        for name, function in METHODS.items():
            seconds[name].append(seconds_of(lambda function=function: function(d0, d1), device))
    memory = {name: peak(name, n, device) for name in METHODS}
    where = f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name()
    print(f"\n{n} x {n} x 128, {where}, {rounds} rounds\n")
    print("| method | ms | original / it | kornia / it | peak memory, MB |\n|---|---|---|---|---|")
    for name in METHODS:
        faster = [
            statistics.median(a / b for a, b in zip(seconds[peer], seconds[name], strict=True))
            for peer in ("original", "kornia")
        ]
        milliseconds = 1000 * statistics.median(seconds[name])
        print(f"| {name} | {milliseconds:.2f} | {faster[0]:.2f} | {faster[1]:.2f} | {memory[name]:.0f} |")


def batch(n: int, count: int, rounds: int, device: str) -> float:
    """Print and return the milliseconds per pair for `count` pairs of n x n descriptors in one call."""
    pairs = [(descriptors(n, 2 * i + 1).to(device), descriptors(n, 2 * i + 2).to(device)) for i in range(count)]

    def run() -> None:
        mutual_nearest_pairs(pairs, RATIO, max_entries=count * n * n)

    run()
    milliseconds = 1000 * statistics.median(seconds_of(run, device) for _ in range(rounds)) / count
    print(f"\n{count} pairs of {n} x {n} in one call: {milliseconds:.3f} ms per pair")
    return milliseconds


def collection(images: int, n: int, device: str) -> None:
    """Print the throughput of `disk match` on all pairs of a folder of features."""
    with tempfile.TemporaryDirectory() as folder:
        artifacts = Path(folder)
        writer = feature_writer(artifacts, {}, "benchmark", False, SHARD_BYTES)
        zeros = np.zeros((n, 2), np.float32)
        for i in range(images):
            arrays = {KEYPOINTS: zeros, DESCRIPTORS: descriptors(n, i + 1).numpy(), SCORES: zeros[:, 0]}
            writer.add(f"{i:04}", arrays)
        writer.finish()
        start = perf_counter()
        summary = match(artifacts, MatchOptions(rt=RATIO, device=device))
        took = perf_counter() - start
    print(
        f"\n{images} images of {n} features: {summary.pairs} pairs in {took:.1f} s, "
        f"{summary.pairs / took:.1f} pairs/s, descriptors of {summary.images_read} images read, "
        f"{summary.matches} matches stored"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[2048, 8192], help="descriptors per image")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=100, help="images in the collection; 0: skip it")
    parser.add_argument("--pairs", type=int, default=64, help="pairs in one call on a GPU; 0: skip it")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    for n in options.sizes:
        compare(n, options.rounds, options.device)
    if options.device != "cpu" and options.pairs:
        batch(2048, options.pairs, options.rounds, options.device)
    if options.images:
        collection(options.images, 2048, options.device)


if __name__ == "__main__":
    main()
