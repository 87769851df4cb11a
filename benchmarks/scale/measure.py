"""What a process has used so far."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock and of the CPU, and the peak of the resident set in MB."""

    wall: float
    cpu: float
    peak: float


def resident(what: str) -> float:
    """VmRSS (now) or VmHWM (the peak) of this process, in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def disk(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def cost_of(function: Callable[..., object], *arguments: Any) -> Cost:
    """The cost of a call in a process of its own; the memory includes the libraries. RuntimeError if it fails."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(theirs, function, *arguments))
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:
        found = f"{function.__name__} ended with {process.exitcode}"
    process.join()
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


def _measured(pipe: Any, function: Callable[..., object], *arguments: Any) -> None:
    wall, cpu = perf_counter(), process_time()
    try:
        function(*arguments)
    except BaseException:
        pipe.send(traceback.format_exc())
        raise
    pipe.send(Cost(perf_counter() - wall, process_time() - cpu, resident("VmHWM")))
