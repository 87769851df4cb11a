"""Threads that each use one core, for work in many small steps: torch's own threads would synchronize at every step."""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def share(function: Callable[[Part], Result], parts: Sequence[Part], device: torch.device) -> list[Result]:
    """Apply a function to each part and return the results in order, without gradients.

    device: of the tensors; on a CPU the parts run in parallel, on as many cores as torch uses
    """
    if device.type != "cpu" or torch.get_num_threads() == 1 or len(parts) == 1:
        with torch.no_grad():
            return [function(part) for part in parts]
    return start_each(function, parts)()


def start_each(function: Callable[[Part], Result], parts: Sequence[Part]) -> Callable[[], list[Result]]:
    """Start applying a function to CPU tensors, without gradients and on one core per part.

    Returns a function that waits for the results, in order, or raises the first error. No further part starts after an
    error, or once the function is dropped without a call: at exit, Python would wait for all parts that wait.
    """
    inference = torch.is_inference_mode_enabled()

    def run(part: Part) -> Result:
        with torch.inference_mode(inference), torch.no_grad():
            return function(part)

    pool = _pool(torch.get_num_threads(), os.getpid())
    started = [pool.submit(run, part) for part in parts]

    def finish() -> list[Result]:
        try:
            return [each.result() for each in started]
        finally:
            _cancel(started)

    weakref.finalize(finish, _cancel, started)
    return finish


def _cancel(started: Sequence[Future[Result]]) -> None:
    for each in started:
        each.cancel()


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """A thread pool for this process: a fork inherits its parent's memory but not its threads."""

    def use_one_core() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # torch initializes a thread at its first call; from then on the setting stays

    pool = ThreadPoolExecutor(threads, "disk", initializer=use_one_core)
    started = Barrier(threads + 1)
    for _ in range(threads):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(threads)  # restore the default for threads started later
    return pool
