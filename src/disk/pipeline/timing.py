"""Timing the parts of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from time import perf_counter


@contextlib.contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Add the duration of the block to `seconds[part]`."""
    start = perf_counter()
    yield
    seconds[part] = seconds.get(part, 0.0) + perf_counter() - start
