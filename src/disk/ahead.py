"""Working ahead in threads within a bound: for decoding, matching and verification."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    call: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int
) -> Generator[Result, None, None]:
    """The results of `call` in the order of the items, computed in threads at most `ahead` items early.

    Items are taken in the caller's thread as there is room. What `call` raises is raised in its item's place. Close it
    to end early: what has not begun is dropped, what has is waited for.
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, "ahead")
    try:
        for item in items:
            waiting.append(pool.submit(call, item))
            del item  # neither items nor results live longer than their user needs them
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
