"""Training batches: read from a data set, rendered from photos, or both. Batch n is always the same."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from disk.datasets.records import PosedImage
from disk.datasets.scenes import SceneSet
from disk.datasets.synthesis.sampler import SceneSampler, list_photos
from disk.datasets.tuples import TupleDataset
from disk.errors import DatasetError, DiskError, TrainingError
from disk.options import option
from disk.progress import counted, log
from disk.training import rendering
from disk.training.augment import augment
from disk.training.distributed import Group
from disk.training.options import TrainOptions
from disk.training.rendering import RenderJob, fitting_processes, pick, rendered
from disk.training.step import tuple_generator
from disk.training.watch import leave_signals_to_parent, signals_blocked

Tuple = list[PosedImage]
TEST_NUMBERS = 1 << 40  # rendered tuples from this number on are for validation
CHUNK_SIZE = 5000  # default number of batches in an epoch, as in the original
_ON_GPU = 32  # tuples rendered at once on a GPU, to launch fewer kernels
_WORKERS, _WORKERS_ON_GPU = 4, 8  # default maximum of reader processes
_HELD, _BYTES_PER_PIXEL = 3, 16  # tuples of each reader in shared memory, with image and depth in single precision


@dataclass(frozen=True)
class Mix:
    """Assigns tuples to the batches of each process and decides which are rendered, evenly mixed.

    The tuples of a training run are numbered consecutively: batch b of process r starts at tuple
    (b * size + r) * batch_size.
    share: fraction of the tuples that are rendered.
    rank: number of this process, r.
    size: number of processes.
    """

    share: float
    batch_size: int
    rank: int
    size: int

    def numbers(self, batch: int) -> range:
        """Tuple numbers in a batch of this process."""
        first = (batch * self.size + self.rank) * self.batch_size
        return range(first, first + self.batch_size)

    def rendered_before(self, number: int) -> int:
        """Number of rendered tuples before this one."""
        return int(number * self.share)

    def is_rendered(self, number: int) -> bool:
        """Whether a tuple is rendered."""
        return self.rendered_before(number + 1) > self.rendered_before(number)

    def groups(self, first: int, together: int) -> Iterator[rendering.RenderGroup]:
        """Endless groups of rendered tuples, each covering `together` batches.

        The first group starts at a multiple of `together` at or before batch `first`, so that a resumed training has
        the same groups.
        """
        for start in count(first - first % together, together):
            seeds = [n for b in range(start, start + together) for n in self.numbers(b) if self.is_rendered(n)]
            if seeds:
                yield rendering.RenderGroup([self.rendered_before(n) for n in seeds], seeds)


class TrainingData:
    """The data to train and validate on.

    Raises DatasetError if the data cannot be used or do not fill a batch, TrainingError if there are none.
    """

    def __init__(self, data: Path | None, options: TrainOptions, group: Group) -> None:
        if data is None and options.synthesize is None:
            raise TrainingError(f"nothing to train on; give DATA, {option('synthesize')} PHOTOS, or both")
        self.options, self.device = options, group.device
        share = 0.0 if options.synthesize is None else 1.0 if data is None else options.synthetic_share
        self.mix = Mix(share, options.batch_size, group.rank, group.size)
        self.tuples: TupleDataset | None = None
        self.tests: TupleDataset | None = None
        self.job: RenderJob | None = None
        self._test_sampler: SceneSampler | None = None
        size = (options.height, options.width)
        if options.synthesize is not None and share > 0:
            list_photos(options.synthesize)
            self.job = RenderJob(options.synthesize, *size, options.views, options.seed, group.device, options.augment)
        if data is not None:
            train, test = _split_files(data)
            if share < 1:
                self.tuples = TupleDataset(SceneSet.load(train), *size, options.train_scene_limit, options.seed)
            if test is not None and options.test_scene_limit > 0:
                self.tests = TupleDataset(SceneSet.load(test), *size, options.test_scene_limit, options.seed)
        self.chunk_size = self._epoch(data)
        if self.test_length == 0:
            log.info("no validation: %s", "no test/dataset.json" if options.test_scene_limit else "as requested")
        self.workers = self._readers(group) if options.workers is None else options.workers

    def batches(self, first: int) -> Generator[list[Tuple], None, None]:
        """Endless batches of this process from number `first` on, on the device, augmented if the options say so."""
        made, read = self._rendered(first), self._read(first)
        try:
            for batch in count(first):
                numbers = self.mix.numbers(batch)
                is_rendered = [self.mix.is_rendered(number) for number in numbers]
                ours = iter(next(made) if any(is_rendered) else [])
                seeds = [n for n, rendered in zip(numbers, is_rendered, strict=True) if not rendered]
                theirs = iter(self._augmented(list(islice(read, len(seeds))), seeds))
                yield [next(ours if rendered else theirs) for rendered in is_rendered]
        finally:
            made.close()
            read.close()

    @property
    def test_length(self) -> int:
        """Number of tuples to validate on."""
        if self.tests is not None:
            return len(self.tests)
        return 0 if self.job is None else self.options.test_scene_limit

    def test(self, index: int) -> Tuple:
        """A tuple to validate on; without test data, a rendered one that is never trained on."""
        if self.tests is not None:
            return [view.to(self.device) for view in self.tests[index]]
        assert self.job is not None
        if self._test_sampler is None:
            self._test_sampler = self.job.sampler()
        return self._test_sampler.tuples([TEST_NUMBERS + index])[0]

    def _rendered(self, first: int) -> Generator[list[Tuple], None, None]:
        """The rendered tuples of each batch that contains any."""
        if self.job is None:
            return
        mix, device = self.mix, self.device
        in_batch = max(round(mix.batch_size * mix.share), 1)
        together = 1 if device.type == "cpu" else max(_ON_GPU // in_batch, 1)
        processes = fitting_processes(self.job, self.options.renderers, together * in_batch)
        groups = rendered(self.job, partial(mix.groups, first, together), processes)
        batch = first - first % together
        try:
            for group in groups:
                row = 0
                while row < len(group):
                    length = sum(map(mix.is_rendered, mix.numbers(batch)))
                    if batch >= first and length:
                        yield pick(group, slice(row, row + length), device).views()
                    row, batch = row + length, batch + 1
        finally:
            groups.close()

    def _read(self, first: int) -> Generator[Tuple, None, None]:
        """The tuples of the data set, one by one, in a different order in each pass."""
        if self.tuples is None:
            return
        mix, length, seed = self.mix, len(self.tuples), self.options.seed

        def rows() -> Iterator[tuple[int, int]]:
            turn, order = -1, np.zeros(0, np.int64)
            for batch in count(first):
                for number in mix.numbers(batch):
                    if mix.is_rendered(number):
                        continue
                    now, place = divmod(number - mix.rendered_before(number), length)
                    if now != turn:
                        turn, order = now, np.random.default_rng([seed, now]).permutation(length)
                    yield turn, int(order[place])

        loader = DataLoader(
            _Passes(self.tuples),
            batch_size=None,
            sampler=rows(),
            num_workers=self.workers,
            collate_fn=_as_it_is,
            worker_init_fn=leave_signals_to_parent,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # only seeds the workers, which draw no random numbers
        )
        with signals_blocked():
            items = iter(loader)
        try:
            for item in items:
                if isinstance(item, DiskError):
                    raise item
                yield [view.to(self.device) for view in item]
        finally:
            del items  # ends the workers, even if an exception keeps this frame alive

    def _augmented(self, tuples: list[Tuple], seeds: list[int]) -> list[Tuple]:
        if not self.options.augment or not tuples:
            return tuples
        cpu = torch.device("cpu")
        generators = [tuple_generator(self.options.seed, seed, "augmentation", cpu) for seed in seeds]
        images = augment(torch.stack([torch.stack([view.image for view in views]) for views in tuples]), generators)
        return [
            [replace(view, image=image) for view, image in zip(views, part, strict=True)]
            for views, part in zip(tuples, images, strict=True)
        ]

    def _readers(self, group: Group) -> int:
        """Default number of processes that read the data set: one less than the cores, if shared memory is enough."""
        most = min(_WORKERS if group.device.type == "cpu" else _WORKERS_ON_GPU, group.cores - 1)
        if self.tuples is None:
            return most
        pixels = self.tuples.scenes[0].tuples.shape[1] * self.options.height * self.options.width
        fit = rendering.free_shared_memory() / (_HELD * _BYTES_PER_PIXEL * pixels)
        if fit < most:
            log.warning(
                "/dev/shm has room for %d instead of %d processes that read the data; start the container with a "
                "larger --shm-size",
                int(fit), most,
            )  # fmt: skip
        return int(min(fit, most))

    def _epoch(self, data: Path | None) -> int:
        """Number of batches in an epoch: as requested, or one pass over the data up to CHUNK_SIZE.

        An epoch may take several passes, each in another order.
        """
        asked, mix = self.options.chunk_size, self.mix
        if self.tuples is None:
            return CHUNK_SIZE if asked is None else asked
        together = mix.batch_size * mix.size
        fits = int(len(self.tuples) / (together * (1 - mix.share)))
        if fits == 0:
            raise DatasetError(
                f"{data}: {counted(len(self.tuples), 'tuple')} cannot fill a batch of {together}; "
                f"use a smaller {option('batch_size')}, or add data"
            )
        if asked is None and fits < CHUNK_SIZE:
            log.info(
                "epochs of %s, one pass over %s of %s",
                counted(fits, "batch", "batches"), counted(len(self.tuples), "tuple"), data,
            )  # fmt: skip
        return min(fits, CHUNK_SIZE) if asked is None else asked


class Ahead:
    """Iterates over batches; on a GPU, prepares the next one while the GPU works on the current one."""

    def __init__(self, batches: Iterator[list[Tuple]], device: torch.device) -> None:
        self.batches, self.on_gpu = batches, device.type == "cuda"
        self.waiting: list[list[Tuple]] = []

    def check(self) -> None:
        """Fetch the first batch, which raises the errors of unusable data, before anything is written."""
        self.waiting.append(next(self.batches))

    def __next__(self) -> list[Tuple]:
        return self.waiting.pop() if self.waiting else next(self.batches)

    def prepare(self) -> None:
        """Fetch the next batch. Call it once the GPU has work queued; on a CPU it does nothing."""
        if self.on_gpu:
            self.waiting.append(next(self.batches))


def _split_files(data: Path) -> tuple[Path, Path | None]:
    """The training and test dataset.json files in a folder; without a `train` sub-folder, all is for training."""
    train, test = data / "train" / "dataset.json", data / "test" / "dataset.json"
    return train if train.exists() else data, test if test.exists() else None


def _as_it_is(item: Any) -> Any:
    return item


class _Passes(Dataset[Any]):
    """Tuples by (pass, number). Returns a DiskError instead of raising it, which would print a worker's traceback."""

    def __init__(self, dataset: TupleDataset) -> None:
        self.dataset, self.turn = dataset, 0

    def __getitem__(self, index: tuple[int, int]) -> Tuple | DiskError:
        turn, row = index
        try:
            if turn != self.turn:
                self.dataset.resample(turn)
                self.turn = turn
            return self.dataset[row]
        except DiskError as error:
            return error
