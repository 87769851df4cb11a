"""torchrun on two nodes of their own namespaces against one process with the batch of both: the same weights."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen

import numpy as np
import torch
from namespaces import Machine, Network
from PIL import Image

import disk

_PORT = 29500
_RATE = 1e-5


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batches", type=int, default=4, help="of four tuples, two on each node")
    parser.add_argument("--size", type=int, default=96, help="height and width of the images")


def run(folder: Path, options: argparse.Namespace) -> None:
    photos = folder / "photos"
    photos.mkdir()
    for number in range(3):
        coarse = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC).save(photos / f"{number}.png")
    command = ["disk", "train", "--synthesize", str(photos), "--load", "default", "--lr", str(_RATE), "--device", "cpu"]
    command += ["--height", str(options.size), "--width", str(options.size), "--views", "2", "--n-epochs", "1"]
    command += ["--warmup", str(options.batches), "--chunk-size", str(options.batches), "--test-scene-limit", "2"]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(disk.__file__).parents[1])}
    with Network(folder, ["first", "second"]) as machines:
        first, second = machines.values()
        alone = [sys.executable, "-m", *command, "--batch-size", "4", "--save-dir", str(folder / "one")]
        _wait([first.run(alone, environment, stdout=PIPE, stderr=STDOUT)])
        saved = ["--batch-size", "2", "--save-dir", str(folder / "two")]
        _wait([_torchrun(machine, first, [*command, *saved], environment) for machine in (first, second)])
    start = disk.load("default", "cpu").state_dict()
    one, two = (torch.load(folder / name / "last.pth", weights_only=True) for name in ("one", "two"))
    weights0, weights1, weights2 = (_flat(state[name] for name in start) for state in (start, one["disk"], two["disk"]))
    mean1, mean2 = (_flat(each["exp_avg"] for each in state["optimizer"]["state"].values()) for state in (one, two))
    gradient = float((mean2 - mean1).norm() / mean1.norm())
    largest = float(weights0.abs().max())
    off, moved = weights2 - weights1, float((weights1 - weights0).norm())
    print(
        f"{options.batches} batches of four tuples, by one process and by one on each of two machines:\n"
        f"the running mean of the gradient differs by {gradient:.1e} of its length;\n"
        f"the weights by {float(off.norm()) / moved:.1e} of the way they went, each by {float(off.abs().max()):.1e} at "
        f"most, where the largest is {largest:.2f}"
    )
    assert gradient < 1e-3  # that of one node alone would be another
    # Adam divides by the size of the gradient, so that rounding decides the way of weights whose gradient vanishes
    assert off.norm() < 0.05 * moved


def _flat(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _torchrun(machine: Machine, host: Machine, command: list[str], environment: dict[str, str]) -> Popen[str]:
    place = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    place += ["--rdzv-endpoint", f"{host.name}:{_PORT}"]
    launch = [sys.executable, "-m", "torch.distributed.run", *place, "-m", *command]
    return machine.run(launch, environment, stdout=PIPE, stderr=STDOUT)


def _wait(processes: list[Popen[str]]) -> None:
    for process in processes:
        said, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(said)
