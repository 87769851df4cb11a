"""Progress bars; without a terminal, the same as log lines."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from tqdm import tqdm

from disk.progress import log

_LOG_EVERY = 30.0  # seconds between log lines where there is no terminal
_LINE = "{desc}: {n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left{postfix}"
_LINE_WITHOUT_TOTAL = "{desc}: {n_fmt}, {rate_fmt}{postfix}"


class Bar(tqdm):
    """A progress bar that logs lines instead where it is hidden."""

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
