"""Runs of `disk` that can be killed, each in a process group of its own.

They are forks of one process that has imported everything: a fork runs the same code, but is at work at once, so that
no moment is lost on imports. What a run has done is made safe every fraction of a second, so that a run of seconds has
all the moments of one of hours: a shard every 0.2 s instead of 10, a state of training every 0.3 s instead of 600.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 400.0  # seconds until a run counts as hung
_MARK = "DISK_RELIABILITY"  # in the environment of all that a run starts
_IMPORTED = ["disk.pipeline.reconstruct", "disk.training.loop", "disk.cli.main", "pycolmap", "onnxruntime"]


@dataclass(frozen=True)
class Ended:
    """A run that ended. code: of its exit, None where it was killed; output: what it printed."""

    code: int | None
    seconds: float
    output: str

    @property
    def crashed(self) -> bool:
        """Whether it ended otherwise than by finishing or by a line that says why not."""
        return "Traceback" in self.output or self.code not in (None, 0, 1, 2)


def start_server(library: Path | None) -> None:
    """Start the process that runs are forks of. library: what is preloaded into it."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if library:
        os.environ["LD_PRELOAD"] = str(library)
    _server().set_forkserver_preload(_IMPORTED)
    multiprocessing.forkserver.ensure_running()
    os.environ.pop("LD_PRELOAD", None)


class Running:
    """A run that has begun; its output goes to a file."""

    def __init__(self, arguments: list[str], output: Path, environment: Mapping[str, str] | None = None) -> None:
        self._token = secrets.token_hex(8)
        self._output = output
        self._begun = time.monotonic()
        settings = {**(environment or {}), _MARK: self._token}
        self._process = _server().Process(target=_run, args=(arguments, str(output), settings))
        self._process.start()

    def wait(self, kill_after: float = PATIENCE) -> Ended:
        """Until it ends; after so many seconds SIGKILL goes to the whole group."""
        self._process.join(max(0.0, self._begun + kill_after - time.monotonic()))
        if self._process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.join()
        code = self._process.exitcode
        killed = code == -signal.SIGKILL and kill_after < PATIENCE
        text = self._output.read_text(errors="replace") if self._output.exists() else ""
        return Ended(None if killed else code, time.monotonic() - self._begun, text)

    def left(self, patience: float = 60.0) -> int:
        """How many processes are still there after so many seconds; they are killed."""
        deadline = time.monotonic() + patience
        while (found := list(self._descendants())) and time.monotonic() < deadline:
            time.sleep(0.2)
        for number in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        return len(found)

    def _descendants(self) -> Iterator[int]:
        mark = f"{_MARK}={self._token}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                number = int(folder.name)
                if mark in (folder / "environ").read_bytes().split(b"\0") or os.getsid(number) == self._process.pid:
                    yield number


def run(arguments: list[str], output: Path, environment: Mapping[str, str] | None = None) -> Ended:
    """Run a command to its end."""
    return Running(arguments, output, environment).wait()


def _server() -> multiprocessing.context.ForkServerContext:
    return multiprocessing.get_context("forkserver")


def _run(arguments: list[str], output: str, settings: dict[str, str]) -> None:
    """In the fork: the command."""
    os.setsid()
    to = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(to, 1)
    os.dup2(to, 2)
    os.environ.pop("LD_PRELOAD", None)
    os.environ.update(settings)
    with contextlib.suppress(AttributeError):  # where the library is not preloaded
        ctypes.CDLL(None).faults_begin()
    from disk.cli.main import main
    from disk.storage import shards
    from disk.training import loop

    shards.SHARD_SECONDS, loop.SAVE_EVERY = 0.2, 0.3
    sys.exit(main(arguments))
