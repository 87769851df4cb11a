"""A bounded, ordered parallel map in threads, for decoding, matching and verification."""

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
    """Yield the results of `call` in the order of the items, computed in threads.

    The caller's thread takes the items. An exception of `call` is raised in place of its result. Close the generator
    to stop early: it drops the calls that have not started and waits for those that have.
    workers: number of threads
    ahead: maximum number of items taken before their results are used
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, "ahead")
    try:
        for item in items:
            waiting.append(pool.submit(call, item))
            del item  # keep no reference to an item or result: they can be large
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
