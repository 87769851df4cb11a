"""Rendered and optionally augmented training tuples, made on demand or in advance by separate processes."""

from __future__ import annotations

import math
import shutil
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, Full
from typing import Any

import torch

from disk.datasets.synthesis.sampler import RenderedTuples, SceneSampler
from disk.errors import DiskError, TrainingError
from disk.options import option
from disk.progress import log
from disk.training.augment import augment
from disk.training.step import tuple_generator
from disk.training.watch import leave_signals_to_parent, signals_blocked

_AHEAD = 1  # finished groups in each renderer's queue, besides the one in progress
_PATIENCE = 5.0  # seconds between checks that the other process is alive


@dataclass(frozen=True)
class RenderJob:
    """What a renderer needs to make tuples from photos."""

    photos: Path
    height: int
    width: int
    views: int
    seed: int
    device: torch.device
    augmented: bool

    def sampler(self) -> SceneSampler:
        """Create a sampler with the photos in memory."""
        return SceneSampler(self.photos, self.height, self.width, self.views, self.device, self.seed)

    def group_bytes(self, tuples: int) -> int:
        """Bytes that a number of tuples take in a queue, with 8-bit images."""
        return tuples * self.views * self.height * self.width * (3 + 4)


@dataclass(frozen=True)
class RenderGroup:
    """Numbers of tuples that are rendered together, and the seeds of their augmentation."""

    numbers: Sequence[int]
    seeds: Sequence[int]


def make(sampler: SceneSampler, job: RenderJob, group: RenderGroup) -> RenderedTuples:
    """Render the tuples of a group, with 8-bit images like those of photos."""
    tuples = sampler.render(group.numbers)
    images = tuples.images
    if job.augmented:
        cpu = torch.device("cpu")
        generators = [tuple_generator(job.seed, seed, "augmentation", cpu) for seed in group.seeds]
        images = augment(images, generators)
    return replace(tuples, images=(images * 255).round_().to(torch.uint8))


def pick(tuples: RenderedTuples, rows: slice, device: torch.device) -> RenderedTuples:
    """Move some of the tuples to a device, with images in [0, 1]."""
    some = tuples.pick(rows).to(device)
    return replace(some, images=some.images.float() / 255)


def rendered(
    job: RenderJob, groups: Callable[[], Iterator[RenderGroup]], processes: int
) -> Generator[RenderedTuples, None, None]:
    """Render groups in order. Closing the generator ends the processes.

    processes: number of processes that take turns to render groups in advance; 0: render on demand in this process.
    """
    if processes == 0:
        sampler = job.sampler()
        for group in groups():
            yield make(sampler, job, group)
        return
    renderers = [_Renderer(job, groups, number, processes) for number in range(processes)]
    try:
        while True:
            for renderer in renderers:
                yield renderer.next()
    finally:
        for renderer in renderers:
            renderer.end()


def fitting_processes(job: RenderJob, asked: int | None, tuples: int) -> int:
    """Number of rendering processes: as requested, or by default 2 on a CUDA GPU if shared memory is large enough."""
    if asked is not None:
        return asked
    if job.device.type != "cuda":
        return 0
    needed = 2 * (_AHEAD + 2) * job.group_bytes(tuples)
    if free_shared_memory() < needed:
        log.warning(
            "/dev/shm has less than %.1f GB free, so rendering does not run in parallel with training; start the "
            "container with a larger --shm-size, or set %s",
            needed / 1e9,
            option("renderers", 1),
        )
        return 0
    return 2


def free_shared_memory() -> float:
    """Free bytes of /dev/shm, in which processes hand over tensors; infinite on systems without it."""
    memory = Path("/dev/shm")
    return float(shutil.disk_usage(memory).free) if memory.is_dir() else math.inf


class _Renderer:
    """A process that renders groups number, number + stride, ... in advance."""

    def __init__(self, job: RenderJob, groups: Callable[[], Iterator[RenderGroup]], number: int, stride: int) -> None:
        context = torch.multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self.queue = context.Queue(_AHEAD)
        self.process = context.Process(
            target=_work, args=(self.queue, job, groups, number, stride), daemon=True, name=f"renderer-{number}"
        )
        with signals_blocked():
            self.process.start()

    def next(self) -> RenderedTuples:
        while True:
            try:
                item = self.queue.get(timeout=_PATIENCE)
            except Empty:
                if self.process.is_alive():
                    continue
                raise TrainingError(
                    f"a rendering process ended (exit code {self.process.exitcode}), perhaps out of memory; "
                    f"try {option('renderers', 0)}"
                ) from None
            if isinstance(item, Exception):
                raise item
            return item

    def end(self) -> None:
        self.process.kill()  # it has nothing to save, and may be blocked on a full queue
        self.process.join()
        self.queue.close()


def _work(queue: Any, job: RenderJob, groups: Callable[[], Iterator[RenderGroup]], number: int, stride: int) -> None:
    """Main function of a renderer: runs until it is killed or its parent is gone."""
    leave_signals_to_parent()
    torch.set_num_threads(1)  # leave the cores to the training; on a GPU a renderer only launches kernels
    if job.device.type == "cuda":
        torch.cuda.set_device(job.device)
    try:
        sampler = job.sampler()
        for count, group in enumerate(groups()):
            if count % stride == number:
                tuples = make(sampler, job, group)
                if not _put(queue, tuples.to("cpu")):
                    return
    except DiskError as error:
        _put(queue, error)
    except Exception:  # the parent raises it
        _put(queue, RuntimeError(f"a rendering process failed:\n{traceback.format_exc()}"))


def _put(queue: Any, item: Any) -> bool:
    """Put an item into the queue; False if the parent ended first."""
    parent = torch.multiprocessing.parent_process()
    while parent is None or parent.is_alive():
        try:
            queue.put(item, timeout=_PATIENCE)
        except Full:
            continue
        return True
    return False
