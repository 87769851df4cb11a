"""One training step of two triplets: ours against a dense formulation like the original's.

    python benchmarks/training.py [--sizes 256 768] [--rounds 3] [--device cuda] [--precision bf16]

The dense formulation takes all images in one batch, keeps the 129-channel map for autograd, and computes each pair's
loss by autograd with matrices of all matches. Both methods use the same weights, images, keypoints and rewards. They
are timed in turn in one process, so that drifts of the machine's speed cancel out. Peak memory is measured in a
separate process per method, above the memory for libraries, network and images.
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
    """Print a table of seconds per step, peak memory and images per second.

    Args:
        sizes: heights and widths of the images
        rounds: number of steps of each method, after one to warm up; the median is reported
        device: cpu or cuda
        precision: precision of the network
        memory_of: for internal use: run one step of a method and print its peak memory
    """
    if memory_of != "none":
        batch = render(sizes[0], device)
        before = peak(device)
        step_of(memory_of, batch, device, precision)()
        print(json.dumps(peak(device) - before))
        return
    print(f"{torch.get_num_threads()} threads, {device}, {precision}; 2 triplets per step")
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
    """Render two triplets of scenes textured with photos that ship with scikit-image."""
    from skimage.data import stereo_motorcycle

    return SceneSampler(list(stereo_motorcycle()[:2]), size, size, 3, device, 0).tuples([0, 1])


def step_of(method: str, batch: list[list[PosedImage]], device: str, precision: str) -> Step:
    """Create a function that runs one step of a method, on the same weights and keypoints for both."""
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
    """The gradient as in the original: dense network, features detached per image, one backward pass per pair."""
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
    """Peak MB of one step, in a separate process."""
    arguments = ["--sizes", str(size), "--device", device, "--precision", precision, "--memory-of", method]
    result = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return float(json.loads(result.stdout.splitlines()[-1]))


def peak(device: str) -> float:
    """Peak memory in MB, of the process or allocated on the GPU."""
    if device == "cpu":
        # not getrusage: its figure is inherited from the parent process
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return float(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1e3
    return torch.cuda.max_memory_allocated() / 1e6


def synchronise(device: str) -> None:
    """Wait for the GPU."""
    if device != "cpu":
        torch.cuda.synchronize()


if __name__ == "__main__":
    tyro.cli(main)
