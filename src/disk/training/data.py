"""The batches of training: read from a data set, rendered from photographs, or both. Batch n is always the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from disk.datasets.records import PosedImage
from disk.datasets.scenes import SceneSet
from disk.datasets.synthesis.sampler import SceneSampler
from disk.datasets.tuples import TupleDataset
from disk.errors import DatasetError, DiskError, TrainingError
from disk.training.distributed import Group
from disk.training.options import TrainOptions
from disk.training.watch import leave_signals_to_parent

Tuple = list[PosedImage]
TEST_NUMBERS = 1 << 40  # rendered tuples from this number on are for validation
_RENDERED_ON_GPU = 16  # batches at once, to spend the time of starting kernels once


class TrainingData:
    """What to train and validate on.

    Raises DatasetError for data that cannot be used or do not fill an epoch, TrainingError when there are none.
    """

    def __init__(self, data: Path | None, options: TrainOptions, group: Group) -> None:
        if data is None and options.synthesize is None:
            raise TrainingError("nothing to train on; give DATA, --synthesize PHOTOS, or both")
        if not 0 <= options.synthetic_share <= 1:
            raise TrainingError(f"--synthetic-share {options.synthetic_share}: must lie between 0 and 1")
        self.options, self.group = options, group
        # share of the batches that are rendered
        self.share = 0.0 if options.synthesize is None else 1.0 if data is None else options.synthetic_share
        self.tuples: TupleDataset | None = None
        self.sampler: SceneSampler | None = None
        self.tests: TupleDataset | None = None
        if self.share > 0:
            assert options.synthesize is not None
            self.sampler = SceneSampler(
                options.synthesize, options.height, options.width, options.views, group.device, options.seed
            )
        if data is not None:
            size = (options.height, options.width)
            train, test = _split_files(data)
            if self.share < 1:
                self.tuples = TupleDataset(SceneSet.load(train), *size, options.train_scene_limit, options.seed)
                self._check_length(train)
            if test is not None and options.test_scene_limit > 0:
                self.tests = TupleDataset(SceneSet.load(test), *size, options.test_scene_limit, options.seed)

    def batches(self, first: int) -> Iterator[list[Tuple]]:
        """The batches of this process from number `first` on, without end; rendered and read ones evenly mixed."""
        rendered = self._rendered(int(first * self.share))
        read = self._read(first - int(first * self.share))
        number = first
        while True:
            yield next(rendered if int((number + 1) * self.share) > int(number * self.share) else read)
            number += 1

    @property
    def test_length(self) -> int:
        """Number of tuples to validate on."""
        if self.tests is not None:
            return len(self.tests)
        return 0 if self.sampler is None else self.options.test_scene_limit

    def test(self, index: int) -> Tuple:
        """A tuple to validate on; without test data, one rendered and never trained on."""
        if self.tests is not None:
            return [view.to(self.group.device) for view in self.tests[index]]
        assert self.sampler is not None
        return self.sampler.tuples([TEST_NUMBERS + index])[0]

    def _rendered(self, first: int) -> Iterator[list[Tuple]]:
        assert self.sampler is not None
        size = self.options.batch_size
        at_once = 1 if self.group.device.type == "cpu" else _RENDERED_ON_GPU
        number = first
        while True:
            starts = [((number + i) * self.group.size + self.group.rank) * size for i in range(at_once)]
            tuples = self.sampler.tuples([start + i for start in starts for i in range(size)])
            yield from (tuples[i : i + size] for i in range(0, len(tuples), size))
            number += at_once

    def _read(self, first: int) -> Iterator[list[Tuple]]:
        assert self.tuples is not None
        options, group = self.options, self.group
        per_pass = len(self.tuples) // (options.batch_size * group.size)
        turn, start = divmod(first, per_pass)
        while True:
            self.tuples.resample(turn)
            order = np.random.default_rng([options.seed, turn]).permutation(len(self.tuples))
            order = order[: per_pass * options.batch_size * group.size]
            order = order.reshape(per_pass, group.size, options.batch_size)[start:, group.rank]
            loader = DataLoader(
                _Carrier(self.tuples),
                batch_sampler=order.tolist(),
                num_workers=options.workers,
                collate_fn=list,
                worker_init_fn=leave_signals_to_parent,
                generator=torch.Generator(),  # for the workers' seeds, which nothing uses
            )
            for batch in loader:
                for item in batch:
                    if isinstance(item, DiskError):
                        raise item
                yield [[view.to(group.device) for view in views] for views in batch]
            turn, start = turn + 1, 0

    def _check_length(self, path: Path) -> None:
        assert self.tuples is not None
        together = self.options.batch_size * self.group.size
        per_pass = len(self.tuples) // together
        needed = max(int(self.options.chunk_size * (1 - self.share)), 1)
        if per_pass < needed:
            fits = int(per_pass / (1 - self.share))
            raise DatasetError(
                f"{path}: {len(self.tuples)} tuples make {per_pass} batches of {together}, an epoch needs {needed}; "
                + (f"use --chunk-size {fits} or less, or more data" if fits else "add data")
            )


def _split_files(data: Path) -> tuple[Path, Path | None]:
    """The dataset.json files of training and test in a folder; one without `train` is all for training."""
    train, test = data / "train" / "dataset.json", data / "test" / "dataset.json"
    return train if train.exists() else data, test if test.exists() else None


class _Carrier(Dataset[Any]):
    """Hands a user's mistake over as a value: raised in a worker it would arrive with the worker's traceback."""

    def __init__(self, dataset: TupleDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Tuple | DiskError:
        try:
            return self.dataset[index]
        except DiskError as error:
            return error
