"""Which device a process trains on, on machines with GPUs that are made up."""

from __future__ import annotations

import os

import pytest
import torch

from disk.errors import DiskError, TrainingError
from disk.training import distributed
from disk.training.distributed import joined


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """A machine with two; returns the devices that are set. `set_device` refuses one without index, as torch's does."""
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
def test_a_device_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DiskError, match=f"device='{name}'"), joined(name):
        pass


def test_a_device_that_fails_is_one_line(two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*shape: int, device: torch.device) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nlong story")

    monkeypatch.setattr(torch, "zeros", broken)
    with pytest.raises(TrainingError, match=r"device='cuda': cannot be used \(CUDA error: no kernel"), joined("cuda"):
        pass


def test_processes_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(9)), raising=False)
    shares = [distributed.Group(0, n, torch.device("cpu"), local_size=n).cores for n in (1, 2, 20)]
    assert shares == [9, 4, 1]
