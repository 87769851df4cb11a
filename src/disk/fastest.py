"""Which of several ways to the same result is the fastest on this CPU: measured once and kept in the cache folder.

No list of names can say: it depends on the CPU, on the version of torch and on the number of threads. The figures
are kept by these, in speed.json; without that file, or where it cannot be written, they are taken anew in each process.
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
_BUDGET = 0.1  # seconds for one question, beyond the first two rounds
_ROUNDS = 5

# what a way needs before it can be timed; returns what is timed
Way = Callable[[], Callable[[], object]]


def fastest(task: str, ways: Mapping[str, Way]) -> str:
    """The name of the fastest way to a task; the first one where none can be prepared.

    task: what is done, and with which sizes. Rounds run every way once, so that a machine whose speed drifts treats
    all alike; the best time of each counts. What is measured while other work fills the cores is not kept for later.
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
    """The figures of this CPU, in seconds: {task: {way: seconds}}, those kept in the file and of this process."""
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
        except Exception as error:  # whatever a library that does not work raises
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
    except RuntimeError:  # there is no home
        return None


def _read() -> dict[str, dict[str, dict[str, float]]]:
    """What is in the file, {machine: {task: {way: seconds}}}; whatever has another form is left out."""
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
    """Add to the file. Of two processes that do so at once the last one wins, and the other measures once more."""
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
