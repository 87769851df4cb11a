"""The pretended CUDA device fails and waits where a real one would."""

import os
from multiprocessing import get_context

import pytest
import torch
from torch.nn import functional as F

from disk.devices import choose_device

pytestmark = pytest.mark.usefixtures("pretend_cuda")

FAULTS = {
    "two devices": lambda x: x + torch.ones(4),
    "two GPUs": lambda x: x + torch.ones(4, device="cuda:1"),
    "the CPU changed by the GPU": lambda x: torch.zeros(()).add_(x[0]),
    "output on the CPU": lambda x: torch.add(x, x, out=torch.empty(4)),
    "an index on the wrong device": lambda x: torch.ones(4)[x.long()],
    "index_select on the CPU": lambda x: x.index_select(0, torch.tensor([0])),
    "numpy": lambda x: x.numpy(),
    "an array": lambda x: torch.ones(1).numpy() + x,
    "pinned memory of the GPU": lambda x: x.pin_memory(),
    "a device without an index": lambda x: torch.cuda.set_device(torch.device("cuda")),
    "a product of whole numbers": lambda x: x.long()[None] @ x.long()[:, None],
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_a_gpu_refuses(name):
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        FAULTS[name](torch.ones(4, device="cuda"))


def test_what_a_gpu_allows():
    x = torch.arange(4.0).to("cuda")
    assert x.device == torch.device("cuda", 0) == choose_device("cuda")
    assert (x + torch.tensor(1.0)).tolist() == [1, 2, 3, 4]
    assert x[torch.tensor([1, 3])].tolist() == [1, 3]
    x[torch.tensor([True, False, False, False])] = 9
    assert x.cpu().numpy().tolist() == [9, 1, 2, 3]
    assert x.to("cuda:0") is x
    assert x.to("cuda:1").get_device() == 1


WAITS = {
    "a number": lambda x: x[0].item(),
    "a list": lambda x: x.tolist(),
    "a copy": lambda x: x.cpu(),
    "a mask": lambda x: x[x > 1],
    "nonzero": lambda x: x.nonzero(),
    "from the host": lambda x: torch.tensor([1.0], device="cuda"),
    "a singular matrix?": lambda x: torch.linalg.inv(torch.eye(2, device="cuda")),
    "an event": lambda x: torch.cuda.Event().synchronize(),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_waits_cannot_be_captured(name, pretend_cuda):
    x = torch.arange(4.0).to("cuda")
    waited = pretend_cuda.waits
    WAITS[name](x)
    assert pretend_cuda.waits > waited
    with pytest.raises(RuntimeError, match="capturing"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        WAITS[name](x)


def test_a_replay_reads_the_same_memory_and_the_numbers_of_the_host_as_they_were():
    x, graph, factor = torch.ones(2, device="cuda"), torch.cuda.CUDAGraph(), 2
    with torch.cuda.graph(graph):
        y = F.relu(x[:1] * factor).expand(3)
    x.fill_(3)
    factor = 5
    graph.replay()
    assert y.tolist() == [6, 6, 6]


def test_copies_arrive_once_they_are_waited_for():
    x, host = torch.ones(3, device="cuda"), torch.empty(3, pin_memory=True)
    host.copy_(x, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    late = x.to("cpu", non_blocking=True)
    assert host.isnan().all()
    copied.synchronize()
    assert host.tolist() == [1, 1, 1]
    assert late.isnan().all()
    torch.cuda.synchronize()
    assert late.tolist() == [1, 1, 1]


def test_new_memory_holds_no_zeros():
    assert torch.empty(2, device="cuda").isnan().all()
    assert (torch.empty_like(torch.zeros(2, device="cuda").long()) != 0).all()


def test_not_in_a_fork():
    x = torch.ones(2, device="cuda")

    def use():
        try:
            x.add(1)
        except RuntimeError as error:
            os._exit(7 if "forked" in str(error) else 1)

    process = get_context("fork").Process(target=use)
    process.start()
    process.join(60)
    assert process.exitcode == 7


def test_gradients():
    x = torch.ones(3, device="cuda", requires_grad=True)
    (x * x).sum().backward()
    assert x.grad.is_cuda
    assert x.grad.tolist() == [2, 2, 2]
