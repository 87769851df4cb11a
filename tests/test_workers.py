"""Work shared among threads comes back in order, and training can use its results."""

import threading

import pytest
import torch

from disk.workers import share, start_each

CPU = torch.device("cpu")


@pytest.mark.parametrize("count", [1, 3])
def test_results_in_order_without_gradients(threads, count):
    threads(count)
    weight = torch.ones(2, requires_grad=True)
    results = share(lambda part: (part, weight * part, torch.get_num_threads()), list(range(20)), CPU)
    assert [part for part, _, _ in results] == list(range(20))
    assert not any(product.requires_grad for _, product, _ in results)
    assert {each for _, _, each in results} == {1}
    assert torch.get_num_threads() == count


@pytest.mark.parametrize("inference", [True, False])
def test_results_of_threads_have_the_callers_mode(threads, inference):
    threads(2)
    with torch.inference_mode(inference):
        out = torch.zeros(6)

        def fill(part):
            out[part] = part
            return torch.ones(1)

        assert all(made.is_inference() == inference for made in share(fill, list(range(6)), CPU))
    assert out.tolist() == [0, 1, 2, 3, 4, 5]


def test_an_error_reaches_the_caller(threads):
    threads(2)
    with pytest.raises(ZeroDivisionError):
        share(lambda part: 1 // part, [1, 0], CPU)


def test_parts_run_while_the_caller_does_something_else(threads):
    threads(2)
    caller_is_ready, both_run = threading.Event(), threading.Barrier(2, timeout=60)

    def work(part):
        assert caller_is_ready.wait(60)
        both_run.wait()
        return part, torch.get_num_threads()

    finish = start_each(work, [3, 1, 2, 4])
    caller_is_ready.set()
    assert finish() == [(3, 1), (1, 1), (2, 1), (4, 1)]


def test_after_an_error_no_further_part_starts(threads):
    threads(2)
    done, error_raised = [], threading.Event()

    def work(part):
        if part == 0:
            raise ValueError("the first part")
        assert error_raised.wait(60)
        done.append(part)

    finish = start_each(work, list(range(20)))
    with pytest.raises(ValueError, match="the first part"):
        finish()
    error_raised.set()
    share(lambda part: None, [0, 1], CPU)  # comes after all parts that were not cancelled
    assert len(done) <= 2


def test_parts_that_nobody_waits_for_do_not_start(threads):
    threads(2)
    done, dropped = [], threading.Event()

    def work(part):
        assert dropped.wait(60)
        done.append(part)

    finish = start_each(work, list(range(20)))
    del finish
    dropped.set()
    share(lambda part: None, [0, 1], CPU)  # comes after all parts that were not cancelled
    assert len(done) <= 2
