"""Progress of anything that takes over a second: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
log = logging.getLogger("disk")
_LOG_EVERY = 30.0  # seconds between lines of progress where there is no terminal


def setup(quiet: bool) -> None:
    """Send log lines to stderr, without breaking a bar in progress; `quiet` leaves warnings only."""
    handler = _TqdmHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False


def track(items: Iterable[T], description: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a bar that shows rate and time left; without a terminal, log when done."""
    bar = progress_bar(description, unit, total=total if total is not None else _length(items))
    with bar:
        for item in items:
            yield item
            bar.update(1)
    if bar.disable:
        log.info("%s: done", description)


def progress_bar(description: str, unit: str, total: int | None, initial: int = 0) -> tqdm:
    """A bar to update by hand; silent when quiet or when stderr is no terminal."""
    hidden = not sys.stderr.isatty() or not log.isEnabledFor(logging.INFO)
    return tqdm(desc=description, unit=unit, total=total, initial=initial, disable=hidden, dynamic_ncols=True)


class Progress:
    """A bar with rate and time left; without a terminal a line every half minute. Of the total, `skipped` are done."""

    def __init__(self, description: str, unit: str, todo: int, skipped: int) -> None:
        self.bar = progress_bar(description, unit, total=todo + skipped, initial=skipped)
        self._description, self._unit = description, unit
        self._todo, self._skipped, self._done = todo, skipped, 0
        self._start = self._logged = perf_counter()

    def step(self) -> None:
        """One more is done."""
        self.bar.update(1)
        self._done += 1
        now = perf_counter()
        if self.bar.disable and now - self._logged > _LOG_EVERY:
            self._logged = now
            rate = self._done / (now - self._start)
            left = tqdm.format_interval((self._todo - self._done) / rate)
            done, total = self._done + self._skipped, self._todo + self._skipped
            log.info(
                "%s: %d of %d %ss, %.1f %ss/s, %s left",
                self._description, done, total, self._unit, rate, self._unit, left,
            )  # fmt: skip


def _length(items: Iterable[T]) -> int | None:
    try:
        return len(items)  # type: ignore[arg-type]
    except TypeError:
        return None


class _TqdmHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)
