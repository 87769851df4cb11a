"""Which device a process trains on, on simulated machines with GPUs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from disk.errors import DiskError, TrainingError
from disk.progress import log
from disk.training import distributed
from disk.training.distributed import Group, joined, reduce_gradients

CPU = torch.device("cpu")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """A machine with two GPUs; returns the devices that are set. Like torch, `set_device` refuses one without index."""
    chosen = []

    def set_device(device: torch.device) -> None:
        if device.index is None:
            raise ValueError("Expected a torch.device with a specified index or an integer")
        chosen.append(device)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: None)
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda backend: chosen.append(backend))
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: None)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return chosen


@pytest.mark.parametrize(("name", "number"), [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_every_name_of_a_gpu_has_an_index(name: str, number: int, two_gpus: list[torch.device]) -> None:
    with joined(name) as group:
        assert group.device == torch.device("cuda", number)
        assert two_gpus == [group.device]


def started(monkeypatch: pytest.MonkeyPatch, rank: int, size: int, **local: int) -> None:
    for name, value in {"RANK": rank, "WORLD_SIZE": size, **local}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_processes_of_torchrun_take_a_gpu_each(
    name: str, two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    started(monkeypatch, 3, 4, LOCAL_RANK=1, LOCAL_WORLD_SIZE=2)
    with joined(name) as group:
        assert (group.rank, group.size, group.device) == (3, 4, torch.device("cuda", 1))
        assert two_gpus == [group.device, "nccl"]


def test_a_scheduler_may_show_each_process_one_gpu(
    two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    started(monkeypatch, 1, 2, LOCAL_RANK=1)
    with joined("cuda") as group:
        assert group.device == torch.device("cuda", 0)


@pytest.mark.parametrize(("name", "count"), [("cuda:1", 2), ("auto", 3)])
def test_processes_that_would_share_a_gpu_are_refused(
    name: str, count: int, two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    started(monkeypatch, 0, count, LOCAL_RANK=0, LOCAL_WORLD_SIZE=count)
    with pytest.raises(TrainingError, match=r"this machine has 2 GPUs; use .* and --nproc-per-node 2"), joined(name):
        pass


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "tpu", "cuda:x"])
def test_a_missing_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DiskError, match=f"device='{name}'"), joined(name):
        pass


def test_a_broken_device_is_one_line(two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*shape: int, device: torch.device) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nlong story")

    monkeypatch.setattr(torch, "zeros", broken)
    with pytest.raises(TrainingError, match=r"device='cuda': cannot be used \(CUDA error: no kernel") as caught:
        joined("cuda").__enter__()
    assert "long story" not in str(caught.value)


def test_processes_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(9)), raising=False)
    shares = [distributed.Group(0, n, torch.device("cpu"), local_size=n).cores for n in (1, 2, 20)]
    assert shares == [9, 4, 1]


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Another process, of rank 1: its sums, gathered values and data, and the calls to the process group."""
    state: dict[str, Any] = {"sum": 0.0, "value": None, "sources": [], "backends": [], "left": 0}

    def all_gather(values: list[Any], value: Any) -> None:
        values[:] = [value, state["value"]]

    monkeypatch.setattr(distributed.dist, "all_reduce", lambda tensor: tensor.add_(state["sum"]))
    monkeypatch.setattr(distributed.dist, "all_gather_object", all_gather)
    monkeypatch.setattr(distributed.dist, "broadcast", lambda tensor, source: state["sources"].append(source))
    monkeypatch.setattr(distributed.dist, "init_process_group", state["backends"].append)
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: state.update(left=state["left"] + 1))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    level = log.level
    yield state
    log.setLevel(level)


def test_two_processes_share_their_values(other: dict[str, Any]) -> None:
    assert len({Group(0, 2, CPU), Group(1, 2, CPU), Group(0, 2, CPU)}) == 2  # a frozen record
    first, second = Group(0, 2, CPU), Group(1, 2, CPU)
    assert (first.leads, second.leads) == (True, False)
    first.broadcast(torch.zeros(3) for _ in range(2))
    assert other["sources"] == [0, 0]
    other["sum"] = 2.0
    assert first.sum(torch.ones(2)).tolist() == [3, 3]
    other["value"] = "b"
    assert first.gather("a") == ["a", "b"]
    for mine, theirs, either in ((False, 0.0, False), (True, 0.0, True), (False, 1.0, True), (True, 1.0, True)):
        other["sum"] = theirs
        assert first.any(mine) is either


def test_a_single_process_does_not_communicate(other: dict[str, Any]) -> None:
    other["sum"] = 2.0
    with joined("cpu") as group:
        assert group == Group(0, 1, CPU, local_size=1)
        assert group == Group(0, 1, CPU)
        group.broadcast([torch.zeros(3)])
        assert group.sum(torch.ones(2)).tolist() == [1, 1]
        assert (group.any(True), group.any(False), group.gather("a")) == (True, False, ["a"])
    assert (other["sources"], other["backends"], other["left"]) == ([], [], 0)


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_on_cpus_join_and_leave(rank: int, other: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process reports for all."""
    started(monkeypatch, rank, 2, LOCAL_WORLD_SIZE=2)
    log.setLevel(logging.INFO)
    with joined("cpu") as group:
        assert group == Group(rank, 2, CPU, local_size=2)
        assert log.level == (logging.ERROR if rank else logging.INFO)
        assert other["left"] == 0
    assert (other["backends"], other["left"]) == (["gloo"], 1)


def test_gradients_are_summed_and_a_missing_one_counts_as_zero(other: dict[str, Any]) -> None:
    with_gradient, without = (torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(4)))
    with_gradient.grad = torch.arange(6.0).view(2, 3)
    other["sum"] = 1.0
    sums = reduce_gradients(Group(0, 2, CPU), iter([with_gradient, without]), torch.tensor([5.0, 7.0]))
    assert sums == [6.0, 8.0, 1.0]
    assert with_gradient.grad.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert without.grad.tolist() == [1, 1, 1, 1]
    other["sum"] = float("inf")
    assert reduce_gradients(Group(0, 2, CPU), [with_gradient], torch.zeros(1))[-1] == 0
