"""Progress of long work: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
log = logging.getLogger("disk")


def setup(quiet: bool) -> None:
    """Send log lines to stderr without breaking a progress bar.

    quiet: log warnings only
    """
    handler = _Handler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False


def printable(text: object) -> str:
    """A message on one line, with control characters escaped: names read from files may contain any."""
    return str(text).encode(errors="backslashreplace").decode().translate(_CONTROL)


def counted(count: int, what: str, several: str | None = None) -> str:
    """A number of things for a message: `1 photo`, `3 photos`.

    what: one of them
    several: its plural; default: with an s
    """
    return f"{count} {what if count == 1 else several or what + 's'}"


def track(items: Iterable[T], description: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a bar that shows the rate and the time left; without a terminal, log when done."""
    bar = progress_bar(description, unit, total=total if total is not None else _length(items))
    with bar:
        for item in items:
            yield item
            bar.update(1)
    if bar.disable:
        log.info("%s: done", description)


def progress_bar(description: str, unit: str, total: int | None, initial: int = 0) -> tqdm:
    """A bar to update by hand; a log line every 30 s if stderr is not a terminal, nothing if quiet."""
    from disk.bars import Bar

    hidden = not sys.stderr.isatty() or not log.isEnabledFor(logging.INFO)
    return Bar(
        desc=description, unit=unit, unit_scale=unit == "B", total=total, initial=initial,
        disable=hidden, dynamic_ncols=True,
    )  # fmt: skip


def _length(items: Iterable[T]) -> int | None:
    try:
        return len(items)  # type: ignore[arg-type]
    except TypeError:
        return None


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(printable(self.format(record)), file=sys.stderr)
