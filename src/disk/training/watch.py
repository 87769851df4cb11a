"""What watches over a training: the wish to stop, collapse, and progress on the terminal."""

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

PATIENCE = 200  # steps in a row without keypoints, right matches or a finite gradient
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 3.0  # seconds; torchrun passes the signal on that its processes have had from the terminal already


class Stop:
    """Whether to save and end: asked for by a signal or by the time limit."""

    def __init__(self, minutes: float | None) -> None:
        self.deadline = float("inf") if minutes is None else time.monotonic() + 60 * minutes
        self.signalled = False

    @property
    def asked(self) -> bool:
        """True once training should end."""
        return self.signalled or time.monotonic() > self.deadline


@contextmanager
def stopping(minutes: float | None) -> Iterator[Stop]:
    """Turn SIGINT and SIGTERM into a wish to stop; one that comes GRACE seconds after the first acts as ever."""
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
            log.warning("stopping after this step; once more in some seconds to stop at once, without saving")

    previous = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def leave_signals_to_parent(worker: int = 0) -> None:
    """For processes that load or render data: signals to the group reach them too, but their parent decides."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Let a process that starts meanwhile not see SIGINT and SIGTERM before it leaves them to its parent."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class CollapseWatch:
    """Notices a training that cannot recover: without keypoints or right matches there is no gradient to follow."""

    def __init__(self) -> None:
        self.empty = self.unrewarded = self.broken = 0

    def check(self, totals: Totals, finite: bool, step: int) -> None:
        """Count one step. Raises TrainingError after PATIENCE steps of one kind in a row."""
        self.empty = self.empty + 1 if totals.keypoints < totals.images else 0
        self.unrewarded = self.unrewarded + 1 if totals.right < 1e-3 * totals.pairs else 0
        self.broken = 0 if finite else self.broken + 1
        remedy = (
            f"start again from an earlier save-*.pth with {option('load')}, and a longer {option('warmup')}, larger "
            f"{option('chunk_size')} (penalties then come later) or smaller {option('lr')}"
        )
        for count, what in (
            (self.broken, "the gradient is not finite"),
            (self.empty, "the network finds less than one keypoint an image: penalties drove them out"),
            (self.unrewarded, "no match is right, so nothing is rewarded"),
        ):
            if count >= PATIENCE:
                raise TrainingError(f"training collapsed: for {PATIENCE} steps up to step {step} {what}; {remedy}")


class Meter:
    """The progress of an epoch, with the means of the last step."""

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
        """Leave the bar as it is."""
        self.bar.close()
