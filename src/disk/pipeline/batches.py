"""Running the network over batches of images, on this machine or on a cluster."""

from __future__ import annotations

import contextlib
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
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

# per worker on a cluster without GPUs: fewer, and large images would exceed the memory per worker
_CORES = 4
_CLUSTER_BATCH = 4  # images; one for each of these cores


class Waiting:
    """The seconds a run has waited for each of its parts, to find the bottleneck."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"decoding": 0.0, "the network": 0.0, "writing": 0.0}

    def __call__(self, part: str) -> AbstractContextManager[None]:
        return timed(self.seconds, part)

    def longest(self) -> str:
        """The part with the longest wait; '' on a cluster, where waits are not measured."""
        return max(self.seconds, key=self.seconds.__getitem__) if any(self.seconds.values()) else ""


Batch = list[Loaded]
Found = Generator[tuple[Batch, list[Features]], None, None]
Run = Callable[[Iterable[Batch], Waiting], Found]


@contextlib.contextmanager
def network(model: DISK, options: DetectionOptions, place: Place) -> Iterator[tuple[Run, int]]:
    """The function that turns batches into features, here or on a cluster, and the best batch size."""
    if place.ray == "off":
        yield lambda batches, waiting: _run_here(model, options, batches, waiting), model.images_at_once()
        return
    with Cluster(place.ray, partial(_make_run, model, options, place.device), place.device, _CORES) as cluster:
        yield lambda batches, waiting: cluster.map((batch, (batch,)) for batch in batches), _CLUSTER_BATCH


def _make_run(model: DISK, options: DetectionOptions, device: str) -> Callable[[Batch], list[Features]]:
    """The function that detects features of a batch in a cluster worker."""
    model.to(choose_device(device))

    def run(batch: Batch) -> list[Features]:
        with _explained(batch):
            return _start(model, batch, options)()

    return run


def _run_here(model: DISK, options: DetectionOptions, batches: Iterable[Batch], waiting: Waiting) -> Found:
    """Run batches on this machine; starts a batch before it waits for the previous one, to keep the device busy.

    Close the generator to drop the images that have not started.
    """
    started: deque[tuple[Batch, Callable[[], list[Features]]]] = deque()
    upcoming = iter(batches)
    try:
        while True:
            with waiting("decoding"):
                batch = next(upcoming, None)
            # a single image takes all cores of a CPU, and may take most of the memory
            alone = batch is None or (len(batch) == 1 and model.device.type == "cpu")
            while len(started) > (0 if alone else 1):
                done, finish = started.popleft()
                with waiting("the network"), _explained(done):
                    features = finish()
                yield done, features
            if batch is None:
                return
            with waiting("the network"), _explained(batch):
                started.append((batch, _start(model, batch, options)))
    finally:
        started.clear()


def _start(model: DISK, batch: Batch, options: DetectionOptions) -> Callable[[], list[Features]]:
    """Start detection in a batch; the returned function waits for its features, in pixels of the images as stored."""
    generator = None
    if options.mode == "rng":
        seed = zlib.crc32(batch[0].file.name.encode())
        generator = torch.Generator(model.device).manual_seed(seed)
    return model.start([image.canvas for image in batch], options, generator, "cpu")


@contextlib.contextmanager
def _explained(batch: Batch) -> Iterator[None]:
    """Turn errors for lack of memory into a DiskError that names the image."""
    try:
        yield
    except Exception as error:
        if _out_of_memory(error):
            height, width = batch[0].canvas.pixels.shape[1:]
            raise DiskError(
                f"{batch[0].file.path} ({width} x {height}, in a batch of {len(batch)}) does not fit into memory; "
                f"use a smaller {option('max_size')} or {option('batch_size')}"
            ) from error
        raise


def _out_of_memory(error: Exception) -> bool:
    # torch on a GPU, torch on a CPU and onnxruntime raise different types, so look at the message
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text for words in ("out of memory", "can't allocate memory", "failed to allocate memory")
    )
