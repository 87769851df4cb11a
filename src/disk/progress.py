"""Progress of anything that takes over a second: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
log = logging.getLogger("disk")
_LOG_EVERY = 30.0  # seconds between lines of progress where there is no terminal
_LINE, _LINE_WITHOUT_TOTAL = (
    "{desc}: {n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left{postfix}",
    "{desc}: {n_fmt}, {rate_fmt}{postfix}",
)


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
    """A bar to update by hand; a line every half minute when stderr is no terminal, nothing when quiet."""
    hidden = not sys.stderr.isatty() or not log.isEnabledFor(logging.INFO)
    return _Bar(
        desc=description, unit=unit, unit_scale=unit == "B", total=total, initial=initial,
        disable=hidden, dynamic_ncols=True,
    )  # fmt: skip


class _Bar(tqdm):
    """A bar that says the same in lines where it is hidden."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._initial, self._unit = self.n, options["unit"]
        self._description = options["desc"]
        self._start = self._logged = perf_counter()

    def update(self, n: int = 1) -> bool | None:
        if not self.disable:
            return super().update(n)
        self.n += n
        now = perf_counter()
        if now - self._logged > _LOG_EVERY:
            self._logged = now
            line = tqdm.format_meter(
                self.n, self.total, now - self._start, prefix=self._description, unit=self._unit, initial=self._initial,
                unit_scale=self._unit == "B", postfix=getattr(self, "postfix", None),
                bar_format=_LINE_WITHOUT_TOTAL if self.total is None else _LINE,
            )  # fmt: skip
            log.info("%s", line)
        return None


def _length(items: Iterable[T]) -> int | None:
    try:
        return len(items)  # type: ignore[arg-type]
    except TypeError:
        return None


class _TqdmHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)
