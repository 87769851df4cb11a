"""Running a reader on hostile files in a separate process, with bounds on memory and time."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from disk.errors import DiskError

SECONDS = 10
MEGABYTES = 1500  # beyond what the process has already


def outcomes(read: Callable[[Path], Any], inputs: list[Path]) -> list[str]:
    """The outcome of each input: `read`, `refused: ...` by a DiskError, or otherwise what went wrong."""
    found: list[str] = []
    while len(found) < len(inputs):
        found += _in_child(read, inputs[len(found) :])
    return found


def is_clean(outcome: str) -> bool:
    """Whether a reader accepted an input or refused it in one line."""
    return outcome == "read" or (outcome.startswith("refused: ") and "\n" not in outcome)


def mutants(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Damaged copies of a file: truncated, bytes flipped, numbers made extreme, pieces repeated or removed."""
    dice = random.Random(seed)
    extreme = [b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 8, b"\xff" * 8, b"\0\0\0\x80", b"\xff\xff\xff\x7f"]
    for number in range(count):
        data = bytearray(content)
        kind = number % 4
        if kind == 0:
            del data[dice.randrange(len(data)) :]
        elif kind == 1:
            for _ in range(dice.choice([1, 2, 4, 16])):
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        elif kind == 2:
            value = dice.choice(extreme)
            start = dice.randrange(min(len(data), dice.choice([64, 512, 1 << 30])))
            data[start : start + len(value)] = value
        else:
            start, end = sorted(dice.randrange(len(data)) for _ in range(2))
            data[start:end] = b"" if dice.random() < 0.5 else bytes(data[start:end]) * 2
        yield bytes(data)


def _in_child(read: Callable[[Path], Any], inputs: list[Path]) -> list[str]:
    """The outcomes up to and including the input, if any, that ended the child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _work(read, inputs, writing)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = [json.loads(line) for line in pipe]
    _, status = os.waitpid(child, 0)
    if len(found) < len(inputs):
        number = os.waitstatus_to_exitcode(status)
        name = signal.Signals(-number).name if number < 0 else f"exit {number}"
        found.append(f"took over {SECONDS} s" if name == "SIGALRM" else f"crashed: {name}")
    return found


def _work(read: Callable[[Path], Any], inputs: list[Path], pipe: int) -> None:

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    bound = MEGABYTES << 20
    with open("/proc/self/statm") as file:
        bound += int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    for path in inputs:
        signal.alarm(SECONDS)
        try:
            read(path)
            outcome = "read"
        except DiskError as error:
            outcome = f"refused: {error}"
        except BaseException:
            outcome = traceback.format_exc()
        signal.alarm(0)
        os.write(pipe, (json.dumps(outcome) + "\n").encode())


def refused(read: Callable[[Path], Any], path: Path) -> str:
    """Why a reader refuses a file, in bounded time and memory."""
    (outcome,) = outcomes(read, [path])
    assert outcome.startswith("refused: "), outcome
    return outcome
