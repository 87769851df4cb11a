"""Several processes that train one network, started by torchrun; a single process is a group of one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed as dist

from disk.devices import choose_device, usable_cores
from disk.errors import TrainingError
from disk.options import option
from disk.progress import counted, log
from disk.shapes import Float, Tensor


@dataclass(frozen=True)
class Group:
    """This process among those that train together.

    rank: number of this process.
    size: number of processes.
    device: the device this process works on.
    local_size: number of processes on this machine.
    """

    rank: int
    size: int
    device: torch.device
    local_size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    @property
    def cores(self) -> int:
        """This process's share of the machine's CPU cores."""
        return max(usable_cores() // self.local_size, 1)

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors with rank 0's."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def sum(self, tensor: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor([float(flag)], device=self.device)) > 0)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in order of rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """Join the process group if started by torchrun; leave it at the end.

    device: as in TrainOptions; several processes on GPUs take one each.

    Raises DiskError if the device does not exist, TrainingError if there are fewer GPUs than processes.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    place = choose_device(device)
    if place.type == "cuda":
        if size > 1:
            place = _own_gpu(device, local_size)
        torch.cuda.set_device(place)
    try:
        torch.zeros(1, device=place)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"{option('device', device)}: cannot be used ({reason}); try {option('device', 'cpu')}"
        ) from error
    if size == 1:
        yield Group(0, 1, place)
        return
    if rank > 0:
        log.setLevel(logging.ERROR)  # only rank 0 reports progress
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Group(rank, size, place, local_size)
    finally:
        dist.destroy_process_group()


def reduce_gradients(group: Group, parameters: Iterable[torch.nn.Parameter], extra: Float[Tensor, " n"]) -> list[float]:
    """Sum the gradients and `extra` over all processes; a missing gradient counts as 0.

    Returns the sum of `extra`, followed by 1 if everything is finite, else 0. A single all-reduce replaces
    DistributedDataParallel's hooks, which expect one backward pass per step.
    """
    parameters = list(parameters)
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters] + [extra])
    group.sum(flat)
    *gradients, total = flat.split([p.numel() for p in parameters] + [extra.numel()])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.view_as(parameter)
    return torch.cat([total, flat.isfinite().all()[None].to(flat.dtype)]).tolist()


def _own_gpu(device: str, local_size: int) -> torch.device:
    """The GPU for this process among those on this machine."""
    count = torch.cuda.device_count()
    if ":" in device or local_size > count:
        raise TrainingError(
            f"{option('device', device)}: each process needs its own GPU, and this machine has "
            f"{counted(count, 'GPU')}; use {option('device', 'cuda')} and --nproc-per-node {min(local_size, count)}"
        )
    # a scheduler may expose to each process only its own GPU, as number 0
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % count)
