"""Monitoring of a training: stop requests, collapse, and progress on the terminal."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from disk.errors import TrainingError
from disk.options import option
from disk.progress import log, progress_bar
from disk.training.step import Totals

PATIENCE = 200  # consecutive steps without keypoints, correct matches or a finite gradient
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 3.0  # seconds; torchrun forwards a signal that its processes already received from the terminal


class Stop:
    """A request to save and stop, by a signal or the time limit."""

    def __init__(self, minutes: float | None) -> None:
        self.deadline = float("inf") if minutes is None else time.monotonic() + 60 * minutes
        self.signalled = False

    @property
    def asked(self) -> bool:
        """True once training should stop."""
        return self.signalled or time.monotonic() > self.deadline


@contextmanager
def stopping(minutes: float | None) -> Iterator[Stop]:
    """Turn SIGINT and SIGTERM into a stop request; a signal more than GRACE seconds later has its usual effect."""
    stop = Stop(minutes)
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return
    first = float("inf")

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if time.monotonic() > first + GRACE:
            signal.signal(number, previous[signal.Signals(number)])
            signal.raise_signal(number)
        elif not stop.signalled:
            first = time.monotonic()
            stop.signalled = True
            log.warning("stopping after this step; interrupt again in a few seconds to stop at once, without saving")

    previous = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def leave_signals_to_parent(worker: int = 0) -> None:
    """Ignore signals in a process that loads or renders data: they reach the whole group, but the parent decides."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM while a process starts, until it calls `leave_signals_to_parent`."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class CollapseWatch:
    """Detects a training that cannot recover: without keypoints or correct matches there is no gradient to follow."""

    def __init__(self) -> None:
        self.empty = self.unrewarded = self.broken = 0

    def check(self, totals: Totals, finite: bool, step: int) -> None:
        """Count one step.

        Raises TrainingError after PATIENCE consecutive steps with the same failure.
        """
        self.empty = self.empty + 1 if totals.keypoints < totals.images else 0
        self.unrewarded = self.unrewarded + 1 if totals.right < 1e-3 * totals.pairs else 0
        self.broken = 0 if finite else self.broken + 1
        remedy = (
            f"start again from an earlier save-*.pth with {option('load')} and a longer {option('warmup')}, larger "
            f"{option('chunk_size')} (which delays the penalties) or smaller {option('lr')}"
        )
        for count, what in (
            (self.broken, "the gradient is not finite"),
            (self.empty, "the network finds fewer than one keypoint per image, because of the penalties"),
            (self.unrewarded, "no match is correct, so nothing is rewarded"),
        ):
            if count >= PATIENCE:
                raise TrainingError(f"training collapsed: for {PATIENCE} steps up to step {step} {what}; {remedy}")


class Meter:
    """Progress bar of an epoch, with the means of the last step."""

    def __init__(self, epoch: int, length: int, done: int) -> None:
        self.bar = progress_bar(f"epoch {epoch}", "batch", length, done)
        self.since = time.monotonic()
        self.images = 0.0

    def update(self, totals: Totals, batches: int) -> None:
        """Show the means of one step."""
        self.images += totals.images
        self.bar.set_postfix(
            {
                "reward": f"{totals.reward / max(totals.pairs, 1):.1f}",
                "keypoints": f"{totals.keypoints / max(totals.images, 1):.0f}",
                "pairs": f"{totals.matches / max(totals.pairs, 1):.0f}",
                "images/s": f"{self.images / (time.monotonic() - self.since):.1f}",
            },
            refresh=False,
        )
        self.bar.update(batches)

    def close(self) -> None:
        """Close the bar and leave it on the terminal."""
        self.bar.close()
