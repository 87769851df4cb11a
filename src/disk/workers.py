"""Threads that each keep one core busy, for work in many small steps: torch's own would meet after every step."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def share(function: Callable[[Part], Result], parts: Sequence[Part], device: torch.device) -> list[Result]:
    """The function of each part, in order; on a CPU on as many cores as torch uses. Without gradients."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or len(parts) == 1:
        with torch.no_grad():
            return [function(part) for part in parts]
    inference = torch.is_inference_mode_enabled()

    def run(part: Part) -> Result:
        with torch.inference_mode(inference), torch.no_grad():
            return function(part)

    return list(_pool(threads, os.getpid()).map(run, parts))


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """A pool of this process: a fork has its parent's memory but not its threads."""

    def use_one_core() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # the first call in a thread is what makes it so for good

    pool = ThreadPoolExecutor(threads, "disk", initializer=use_one_core)
    started = Barrier(threads + 1)
    for _ in range(threads):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(threads)  # as it was, for threads that start from now on
    return pool
