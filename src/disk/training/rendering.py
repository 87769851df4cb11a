"""Rendered training tuples, augmented on request: made when asked for, or ahead by processes beside the training."""

from __future__ import annotations

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

_AHEAD = 1  # groups that wait in each renderer's queue, beside the one it works on
_PATIENCE = 5.0  # seconds between looks at whether the other side is alive


@dataclass(frozen=True)
class RenderJob:
    """What a renderer needs to know: how to make tuples from photographs, and on which device."""

    photos: Path
    height: int
    width: int
    views: int
    seed: int
    device: torch.device
    augmented: bool

    def sampler(self) -> SceneSampler:
        """A sampler with the photographs in memory."""
        return SceneSampler(self.photos, self.height, self.width, self.views, self.device, self.seed)

    def group_bytes(self, tuples: int) -> int:
        """Memory of some tuples on their way, with images of 8 bits."""
        return tuples * self.views * self.height * self.width * (3 + 4)


@dataclass(frozen=True)
class Group:
    """Tuples that are rendered together, by number; seeds are those of their augmentation."""

    numbers: Sequence[int]
    seeds: Sequence[int]


def make(sampler: SceneSampler, job: RenderJob, group: Group) -> RenderedTuples:
    """The tuples of a group with images of 8 bits, as photographs have them."""
    tuples = sampler.render(group.numbers)
    images = tuples.images
    if job.augmented:
        cpu = torch.device("cpu")
        generators = [tuple_generator(job.seed, seed, "augmentation", cpu) for seed in group.seeds]
        images = augment(images, generators)
    return replace(tuples, images=(images * 255).round_().to(torch.uint8))


def pick(tuples: RenderedTuples, rows: slice, device: torch.device) -> RenderedTuples:
    """Some of the tuples on a device, with images in [0, 1]."""

    some = tuples.pick(rows).to(device)
    return replace(some, images=some.images.float() / 255)


def rendered(
    job: RenderJob, groups: Callable[[], Iterator[Group]], processes: int
) -> Generator[RenderedTuples, None, None]:
    """The groups in order; with `processes`, each makes every so many of them ahead. Close it to end them."""
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
    """How many processes render: as asked for, else 2 on a CUDA GPU where shared memory holds what they pass on."""
    if asked is not None:
        return asked
    if job.device.type != "cuda":
        return 0
    memory = Path("/dev/shm")
    needed = 2 * (_AHEAD + 2) * job.group_bytes(tuples)
    if memory.is_dir() and shutil.disk_usage(memory).free < needed:
        log.warning(
            "/dev/shm has less than %.1f GB free, so rendering and steps take turns; a container gets more with "
            "--shm-size, or set %s",
            needed / 1e9,
            option("renderers", 1),
        )
        return 0
    return 2


class _Renderer:
    """A process that makes groups number, number + stride, ... ahead of their use."""

    def __init__(self, job: RenderJob, groups: Callable[[], Iterator[Group]], number: int, stride: int) -> None:
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
                    f"a renderer ended (exit code {self.process.exitcode}), perhaps for lack of memory; "
                    f"try {option('renderers', 0)}"
                ) from None
            if isinstance(item, Exception):
                raise item
            return item

    def end(self) -> None:
        self.process.kill()  # it has nothing to save, and may be waiting for room in its queue
        self.process.join()
        self.queue.close()


def _work(queue: Any, job: RenderJob, groups: Callable[[], Iterator[Group]], number: int, stride: int) -> None:
    """What a renderer does until it is ended or its parent is gone."""
    leave_signals_to_parent()
    torch.set_num_threads(1)  # the cores are for the training; on a GPU a renderer only starts kernels
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
    except Exception:  # named in the parent, which ends with it
        _put(queue, RuntimeError(f"a renderer failed:\n{traceback.format_exc()}"))


def _put(queue: Any, item: Any) -> bool:
    """Whether the item found room before the parent was gone."""
    parent = torch.multiprocessing.parent_process()
    while parent is None or parent.is_alive():
        try:
            queue.put(item, timeout=_PATIENCE)
        except Full:
            continue
        return True
    return False
