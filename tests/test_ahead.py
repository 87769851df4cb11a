"""Working ahead in threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from disk.ahead import map_ahead


def test_results_come_in_order_though_later_ones_are_ready_first() -> None:
    def slow_at_first(item: int) -> int:
        time.sleep(0.05 if item == 0 else 0)
        return 10 * item

    assert list(map_ahead(slow_at_first, range(20), 4, 8)) == [10 * item for item in range(20)]


@pytest.mark.parametrize("ahead", [1, 3, 5])
def test_no_more_items_are_taken_than_the_bound(ahead: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10):
            taken.append(item)
            yield item

    results = map_ahead(lambda item: item, items(), 2, ahead)
    for used in range(10):
        next(results)
        assert len(taken) == min(used + ahead, 10)


def test_items_are_taken_in_the_callers_thread() -> None:
    threads: set[threading.Thread] = set()

    def items() -> Iterator[int]:
        for item in range(5):
            threads.add(threading.current_thread())
            yield item

    workers = set(map_ahead(lambda _: threading.current_thread(), items(), 2, 3))
    assert threads == {threading.current_thread()}
    assert not workers & threads


def test_an_error_is_raised_in_its_items_place() -> None:
    results = map_ahead(lambda item: 1 // item, [1, 1, 0, 1], 2, 4)
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_drops_work_that_has_not_started() -> None:
    begun: list[int] = []
    go = threading.Event()

    def call(item: int) -> int:
        begun.append(item)
        if item:
            go.wait(5)
        return item

    results = map_ahead(call, range(100), 1, 50)
    assert next(results) == 0
    threading.Timer(0.1, go.set).start()
    results.close()
    assert begun in ([0], [0, 1])
