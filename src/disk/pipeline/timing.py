"""The seconds that the parts of a run take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from time import perf_counter


@contextlib.contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Add the time of the block to that of a part."""
    start = perf_counter()
    yield
    seconds[part] = seconds.get(part, 0.0) + perf_counter() - start
