"""Work that is shared among threads comes back in order, and training can use what they made."""

import pytest
import torch

from disk.workers import share

CPU = torch.device("cpu")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


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
def test_what_threads_make_is_of_the_callers_mode(threads, inference):
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
