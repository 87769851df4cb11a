"""One training step of two triplets: ours against our own dense formulation, as the original does it.

    python benchmarks/training.py [--sizes 256 768] [--rounds 3] [--device cuda] [--precision bf16]

Dense: all images in one batch, the 129-channel map kept for autograd, each pair's loss by autograd with matrices of
all matches. Same weights, images, keypoints and rewards for both. The times are taken in one process, in turn, so that
a machine whose speed drifts does not decide; memory is the peak of a process of its own for each method, above
what it takes to load the libraries, the network and the images.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Literal

import torch
import tyro
from torch.nn.functional import normalize

from disk.datasets.records import PosedImage
from disk.datasets.synthesis.sampler import SceneSampler
from disk.features import Features
from disk.model.detection import sample_grid
from disk.model.disk import DISK
from disk.rewards.matches import pair_rewards
from disk.training.schedule import weights_at
from disk.training.step import Objective, accumulate_gradient, tuple_generator

Step = Callable[[], None]
METHODS = ("dense", "ours")
WEIGHTS = weights_at("default", 5)
OBJECTIVE = Objective(weights=WEIGHTS)


def main(
    sizes: tuple[int, ...] = (256, 768),
    rounds: int = 3,
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
    memory_of: Literal["dense", "ours", "none"] = "none",
) -> None:
    """Print a table of seconds a step, peak memory and images a second.

    Args:
        sizes: heights and widths of the images
        rounds: steps of each method, after one to warm up; the median counts
        device: cpu or cuda
        precision: of the network
        memory_of: used by the program itself: run one step of a method and print its peak memory
    """
    if memory_of != "none":
        batch = render(sizes[0], device)
        before = peak(device)
        step_of(memory_of, batch, device, precision)()
        print(json.dumps(peak(device) - before))
        return
    print(f"{torch.get_num_threads()} threads, {device}, {precision}; 2 triplets a step")
    print(f"{'size':>5} {'method':>7} {'s/step':>8} {'images/s':>9} {'peak MB':>8}")
    for size in sizes:
        steps = {method: step_of(method, render(size, device), device, precision) for method in METHODS}
        seconds: dict[str, list[float]] = {method: [] for method in METHODS}
        for number in range(rounds + 1):
            for method, step in steps.items():
                start = time.perf_counter()
                step()
                synchronise(device)
                if number > 0:
                    seconds[method].append(time.perf_counter() - start)
        memory = {method: measure_memory(method, size, device, precision) for method in METHODS}
        for method in METHODS:
            took = median(seconds[method])
            print(f"{size:5} {method:>7} {took:8.2f} {6 / took:9.2f} {memory[method]:8.0f}")
        ratios = [dense / ours for dense, ours in zip(seconds["dense"], seconds["ours"], strict=True)]
        print(f"{size:5}   ratio {median(ratios):8.2f} {'':9} {memory['dense'] / memory['ours']:8.2f}", flush=True)


def render(size: int, device: str) -> list[list[PosedImage]]:
    """Two triplets of scenes papered with a photograph that ships with scikit-image."""
    from skimage.data import stereo_motorcycle

    return SceneSampler(list(stereo_motorcycle()[:2]), size, size, 3, device, 0).tuples([0, 1])


def step_of(method: str, batch: list[list[PosedImage]], device: str, precision: str) -> Step:
    """One step of a method on the same weights and keypoints."""
    torch.manual_seed(0)
    model = DISK().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0)

    def step() -> None:
        generators = [tuple_generator(0, i, "keypoints", torch.device(device)) for i in range(len(batch))]
        if method == "ours":
            accumulate_gradient(model, batch, generators, OBJECTIVE, bf16=precision == "bf16")
        else:
            dense_gradient(model, batch, generators, precision == "bf16")
        optimizer.step()
        optimizer.zero_grad()

    return step


def dense_gradient(model: DISK, batch: list[list[PosedImage]], generators: list[torch.Generator], bf16: bool) -> None:
    """The original's way: a dense network, features detached per image, the backward pass of each pair into them."""
    images = torch.stack([view.image for views in batch for view in views])
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        heatmaps, raw = model(images)
    features = []
    for number, generator in enumerate(generators):
        rows = slice(3 * number, 3 * number + 3)
        for i, (points, log_p) in enumerate(sample_grid(heatmaps[rows, 0].float(), generator)):
            x, y = points.unbind(1)
            descriptors = normalize(raw[3 * number + i, :, y, x].T.float(), dim=1)
            features.append(Features(points.float(), descriptors, log_p))
    leaves = [
        Features(f.keypoints, f.descriptors.detach().requires_grad_(), f.scores.detach().requires_grad_())
        for f in features
    ]
    for number, views in enumerate(batch):
        for i, j in combinations(range(3), 2):
            f1, f2 = leaves[3 * number + i], leaves[3 * number + j]
            cameras, depths = (views[i].camera, views[j].camera), (views[i].depth, views[j].depth)
            rewards = pair_rewards(f1.keypoints, f2.keypoints, *cameras, *depths, OBJECTIVE.rewards)
            distance = (2 - 2 * f1.descriptors @ f2.descriptors.T).clamp(min=1e-6).sqrt()
            affinity = -WEIGHTS.theta * distance
            log_p = affinity.log_softmax(0) + affinity.log_softmax(1)
            weight = (rewards * log_p.exp()).detach()
            matching = (weight * (log_p + f1.scores[:, None] + f2.scores[None])).sum()
            (-matching - WEIGHTS.keypoint * (f1.scores.sum() + f2.scores.sum())).backward()
    torch.autograd.backward(
        [t for f in features for t in (f.descriptors, f.scores)],
        [t.grad for f in leaves for t in (f.descriptors, f.scores)],
    )


def measure_memory(method: str, size: int, device: str, precision: str) -> float:
    """Peak MB of one step in a process of its own."""
    arguments = ["--sizes", str(size), "--device", device, "--precision", precision, "--memory-of", method]
    result = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return float(json.loads(result.stdout.splitlines()[-1]))


def peak(device: str) -> float:
    """Peak memory in MB: of the process, or allocated on the GPU."""
    if device == "cpu":
        # not getrusage, whose figure a child inherits from its parent
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return float(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1e3
    return torch.cuda.max_memory_allocated() / 1e6


def synchronise(device: str) -> None:
    """Wait for the GPU."""
    if device != "cpu":
        torch.cuda.synchronize()


if __name__ == "__main__":
    tyro.cli(main)
