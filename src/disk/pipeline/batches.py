"""The network over batches of images: here, where a GPU is never idle, or on the machines of a cluster."""

from __future__ import annotations

import contextlib
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import torch

from disk.devices import choose_device
from disk.errors import DiskError
from disk.features import Features
from disk.model.disk import DISK
from disk.model.options import DetectionOptions
from disk.options import option
from disk.pipeline.cluster import Cluster
from disk.pipeline.loading import Loaded
from disk.pipeline.options import Place
from disk.pipeline.timing import timed

_CORES = 4  # for a worker on a cluster without GPUs; the maps of a large image need memory that few cores come with


class Waiting:
    """The seconds a run has waited for each of its parts: what held it back."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"decoding": 0.0, "the network": 0.0, "writing": 0.0}

    def __call__(self, part: str) -> AbstractContextManager[None]:
        return timed(self.seconds, part)

    def longest(self) -> str:
        """The part that was waited for most; '' on a cluster, whose machines are not watched."""
        return max(self.seconds, key=self.seconds.__getitem__) if any(self.seconds.values()) else ""


Batch = list[Loaded]
Run = Callable[[Iterable[Batch], Waiting], Iterator[tuple[Batch, list[Features]]]]


@contextlib.contextmanager
def network(model: DISK, options: DetectionOptions, place: Place) -> Iterator[tuple[Run, int]]:
    """What gives the features of batches as they come, here or on a cluster, and the images of a batch, 0 for any."""
    if place.ray == "off":
        batch_size = 1 if model.device.type == "cpu" else 0
        yield lambda batches, waiting: _run_here(model, options, batches, waiting), batch_size
        return
    with Cluster(place.ray, partial(_make_run, model, options, place.device), place.device, _CORES) as cluster:
        batch_size = 4 if cluster.has_gpus else 1
        yield lambda batches, waiting: cluster.map((batch, (batch,)) for batch in batches), batch_size


def _make_run(model: DISK, options: DetectionOptions, device: str) -> Callable[[Batch], list[Features]]:
    """What finds the features of a batch in a worker of a cluster."""
    model.to(choose_device(device))
    return lambda batch: _start(model, batch, options)()


def _run_here(
    model: DISK, options: DetectionOptions, batches: Iterable[Batch], waiting: Waiting
) -> Iterator[tuple[Batch, list[Features]]]:
    """On a GPU a batch is started before the one ahead of it is waited for, so that the GPU is never idle."""
    started: deque[tuple[Batch, Callable[[], list[Features]]]] = deque()
    depth = 0 if model.device.type == "cpu" else 1
    upcoming = iter(batches)
    while True:
        with waiting("decoding"):
            batch = next(upcoming, None)
        if batch is not None:
            with waiting("the network"):
                started.append((batch, _start(model, batch, options)))
        while len(started) > (depth if batch is not None else 0):
            done, finish = started.popleft()
            with waiting("the network"):
                features = finish()
            yield done, features
        if batch is None:
            return


def _start(model: DISK, batch: Batch, options: DetectionOptions) -> Callable[[], list[Features]]:
    """Start detection in a batch; what is returned waits for its features, in pixels of the images as stored."""
    generator = None
    if options.mode == "rng":
        seed = zlib.crc32(batch[0].file.name.encode())
        generator = torch.Generator(model.device).manual_seed(seed)
    canvases = [image.canvas for image in batch]
    try:
        return model.start(canvases, options, generator, "cpu")
    except Exception as error:
        if _out_of_memory(error):
            height, width = canvases[0].pixels.shape[1:]
            raise DiskError(
                f"{batch[0].file.path} at {width} x {height} in a batch of {len(batch)} does not fit into memory; "
                f"use a smaller {option('max_size')} or {option('batch_size')}"
            ) from error
        raise


def _out_of_memory(error: Exception) -> bool:
    # torch on a GPU, torch on a CPU and onnxruntime have nothing but words in common
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text for words in ("out of memory", "can't allocate memory", "failed to allocate memory")
    )
