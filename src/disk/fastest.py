"""Autotuning: which implementation is fastest on this CPU, measured once and kept in the cache folder.

The answer depends on the CPU, the version of torch and the number of threads. speed.json keeps the timings for each
combination; where it cannot be written, each process measures again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from disk.cache import cache_folder
from disk.devices import cpu_name, crowded
from disk.progress import log

FILE = "speed.json"
_BUDGET = 0.1  # seconds per task; rounds after the second start only within it
_ROUNDS = 5

# prepares an implementation and returns the call to time
Way = Callable[[], Callable[[], object]]


def fastest(task: str, ways: Mapping[str, Way]) -> str:
    """The name of the fastest implementation of a task; the first one if none can be prepared.

    Each round runs every implementation once, so that drifting clock speeds affect all alike; the best time of each
    counts. Timings taken while other work fills the cores are not saved.
    task: what is done, and with which sizes
    ways: implementations by name
    """
    task = f"{task}, {torch.get_num_threads()} threads"
    figures = measured().get(task, {})
    if not figures.keys() >= ways.keys():
        figures = _measure(ways)
        _measured_here[task] = figures
        log.debug("%s: %s", task, ", ".join(f"{name} {1000 * seconds:.2f} ms" for name, seconds in figures.items()))
        if not crowded() and figures.keys() >= ways.keys():
            _keep(task, figures)
    return min((name for name in ways if name in figures), key=lambda name: figures[name], default=next(iter(ways)))


def measured() -> dict[str, dict[str, float]]:
    """The timings on this CPU, {task: {implementation: seconds}}: saved ones and those of this process."""
    return {**_read().get(_machine(), {}), **_measured_here}


_measured_here: dict[str, dict[str, float]] = {}


@functools.cache
def _machine() -> str:
    return f"{cpu_name()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


def _measure(ways: Mapping[str, Way]) -> dict[str, float]:
    ready: dict[str, Callable[[], object]] = {}
    for name, prepare in ways.items():
        try:
            ready[name] = prepare()
            ready[name]()  # the first run allocates and compiles
        except Exception as error:  # a broken library may raise anything
            log.warning("%s cannot be used here: %s", name, error)
            ready.pop(name, None)
    best, begun = dict.fromkeys(ready, math.inf), perf_counter()
    for done in range(_ROUNDS):
        if done >= 2 and perf_counter() - begun > _BUDGET:
            break
        for name, run in ready.items():
            start = perf_counter()
            run()
            best[name] = min(best[name], perf_counter() - start)
    return best


def _path() -> Path | None:
    try:
        return cache_folder() / FILE
    except RuntimeError:  # no home folder
        return None


def _read() -> dict[str, dict[str, dict[str, float]]]:
    """The content of the file, {machine: {task: {implementation: seconds}}}; skips malformed entries."""
    path = _path()
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError, RecursionError):
        return {}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for machine, tasks in content.items() if isinstance(content, dict) else ():
        for task, figures in tasks.items() if isinstance(tasks, dict) else ():
            numbers = figures.values() if isinstance(figures, dict) else [None]
            if all(isinstance(number, float) and 0 < number < math.inf for number in numbers):
                found.setdefault(machine, {})[task] = figures
    return found


def _keep(task: str, figures: dict[str, float]) -> None:
    """Add to the file. If two processes do so at once, the last one wins and the other's task is measured again."""
    path = _path()
    if path is None:
        return
    content = _read()
    content.setdefault(_machine(), {})[task] = figures
    temporary = path.with_name(f".{FILE}.{os.getpid()}-{threading.get_ident()}.tmp")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
