"""Scaling of detection and matching with CPU cores: images in parallel compared with threads in one image.

    python benchmarks/cores.py [--seconds 20] [--height 768 --width 1024] [--n 2048]

Runs on 1, 2, 4, ... cores, and on all of them, in two ways: one process with a thread per core, which share one image,
and one single-threaded process per core, each with separate images, all started together. Processes are pinned to their
cores if the system supports it. Efficiency is the rate divided by the rate of one core times the number of cores. The
figures are only meaningful on an idle machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch

import disk
from disk.devices import cpu_name, crowded, usable_cores
from disk.matching.nearest import mutual_nearest

Work = Literal["detect", "match"]
_RATIO = 0.95
_PATIENCE = 600  # seconds to wait for all processes, in case one has failed


def run(
    work: Work, threads: int, cores: list[int], seconds: float, height: int, width: int, n: int, barrier: Any, out: Any
) -> None:
    """Repeat the work in this process for some seconds, together with the other processes; puts the rate into `out`."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    if work == "detect":
        model = disk.load("default", "cpu", threads=threads)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)

        def once() -> object:
            return model.detect(image, n=n, max_size=0)
    else:
        first, second = (
            torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(n, 128)).astype(np.float32)), dim=1)
            for _ in range(2)
        )

        def once() -> object:
            return mutual_nearest(first, second, _RATIO)

    for _ in range(2):  # warm up: select the fastest method, compile, allocate
        once()
    barrier.wait(_PATIENCE)
    start, done = perf_counter(), 0
    while perf_counter() - start < seconds:
        once()
        done += 1
    out.put(done / (perf_counter() - start))


def rate(work: Work, processes: int, threads: int, options: argparse.Namespace) -> float:
    """Images or pairs per second, summed over all processes."""
    context = multiprocessing.get_context("spawn")
    barrier, out = context.Barrier(processes), context.Queue()
    there = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    workers = []
    for number in range(processes):
        cores = there[number * threads : (number + 1) * threads]
        arguments = (work, threads, cores, options.seconds, options.height, options.width, options.n, barrier, out)
        workers.append(context.Process(target=run, args=arguments))
        workers[-1].start()
    rates = [out.get(timeout=_PATIENCE + options.seconds) for _ in workers]
    for worker in workers:
        worker.join()
    return sum(rates)


def counts(cores: int) -> list[int]:
    """1, 2, 4, ... up to the number of cores, and that number itself."""
    return sorted({1 << power for power in range(cores.bit_length()) if 1 << power <= cores} | {cores})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="duration of each measurement")
    parser.add_argument("--height", type=int, default=768)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--n", type=int, default=2048, help="keypoint budget, and features per image to match")
    parser.add_argument("--cores", type=int, default=usable_cores(), help="maximum number of cores")
    options = parser.parse_args()
    print(f"{cpu_name()}, {usable_cores()} cores, torch {torch.__version__}")
    if crowded():
        print("other processes are using the cores of this machine: the figures are affected")
    works: dict[Work, str] = {
        "detect": f"images/s, {options.width}x{options.height}",
        "match": f"pairs/s, {options.n} features each",
    }
    for work, what in works.items():
        print(f"\n{work}: {what}")
        print(f"{'cores':>5}  {'threads in one':>14} {'efficiency':>10}  {'in parallel':>14} {'efficiency':>10}")
        alone = 0.0
        for cores in counts(options.cores):
            together = rate(work, 1, cores, options)
            apart = together if cores == 1 else rate(work, cores, 1, options)
            alone = alone or together
            shares = (f"{100 * each / (cores * alone):.0f} %" for each in (together, apart))
            print(f"{cores:>5}  {together:>14.2f} {next(shares):>10}  {apart:>14.2f} {next(shares):>10}", flush=True)


if __name__ == "__main__":
    main()
