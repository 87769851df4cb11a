"""Training, from top to bottom."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from disk.errors import CheckpointError, TrainingError
from disk.model.checkpoints import load
from disk.model.disk import DISK, STRIDE
from disk.model.engine import warn_of_emulation
from disk.progress import log, progress_bar
from disk.training.augment import augment
from disk.training.data import TrainingData, Tuple
from disk.training.distributed import Group, joined, reduce_gradients
from disk.training.logs import Logs
from disk.training.options import TrainOptions
from disk.training.schedule import weights_at
from disk.training.state import Position, restore, running_average, save_state, save_weights
from disk.training.step import Totals, accumulate_gradient, tuple_generator
from disk.training.validation import PairResult, has_poses, pose_scalars, summarise, validate_tuple
from disk.training.watch import CollapseWatch, Meter, Stop, stopping

SAVE_EVERY = 600.0  # seconds between saves within an epoch


def train(data: Path | None = None, options: TrainOptions = TrainOptions()) -> Path:
    """Train the network on a data set, on scenes rendered from photographs, or on both.

    Returns the file with the final weights. SIGINT or the time limit saves and ends it; --resume goes on.
    """
    _check(options)
    with stopping(options.time_limit) as stop, joined(options.device) as group, ExitStack() as cleanup:
        return _train(data, options, group, stop, cleanup)


def _train(data: Path | None, options: TrainOptions, group: Group, stop: Stop, cleanup: ExitStack) -> Path:
    folder, last = options.save_dir, options.save_dir / "last.pth"
    if last.exists() and not options.resume:
        raise TrainingError(f"{folder} holds a training; go on with --resume or give another --save-dir")
    warn_of_emulation(group.device, options.precision)
    torch.manual_seed(options.seed)
    model = _initial_model(None if last.exists() else options.load, options.desc_dim).to(group.device)
    average = running_average(model, options.average)
    averaged: DISK = average.module  # type: ignore[assignment]
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    position = Position(options.epoch_offset, 0, 0)
    if last.exists():
        position, former = restore(last, model, average, optimizer)
        optimizer.param_groups[0]["lr"] = options.lr
        log.info("resuming %s at epoch %d, batch %d", last, position.epoch, position.batch)
        _report_changes(former, _plain(options))
    if len(set(group.gather(position))) > 1:
        raise TrainingError(f"the processes find different states in {folder}; put --save-dir on a disk they all share")
    begun = position.total
    group.broadcast(model.state_dict().values())
    if options.compile:
        model.unet.trunk = _compiled(model.unet.trunk)  # type: ignore[method-assign]
    source = TrainingData(data, options, group)
    batches = source.batches(position.total)
    collapse = CollapseWatch()
    logs = None
    if group.leads:
        folder.mkdir(parents=True, exist_ok=True)
        logs = cleanup.enter_context(closing(Logs(folder, position.total)))

    def save() -> float:
        if group.leads:
            save_state(last, model, average, optimizer, position, _plain(options))
        return time.monotonic()

    saved = time.monotonic()
    stopped = False
    for epoch in range(position.epoch, options.epoch_offset + options.n_epochs):
        weights = weights_at(options.schedule, epoch, options.keypoint_penalty)
        length = options.warmup if epoch == 0 else options.chunk_size
        meter = Meter(epoch, length, position.batch)
        while position.batch < length and not stopped:
            # the gradient of one step of the optimiser, summed over its batches and over all processes
            count = min(options.substep, length - position.batch)
            sums = torch.zeros(6, device=group.device)
            for number in range(position.total, position.total + count):
                batch, generators = _prepare(next(batches), number, options, group)
                sums += accumulate_gradient(
                    model,
                    batch,
                    generators,
                    weights,
                    epipolar=options.reward == "epipolar",
                    visibility=not options.original_reward,
                    threshold=options.reward_threshold,
                    bf16=options.precision == "bf16",
                    share=options.keypoint_share,
                )
            *values, finite = reduce_gradients(group, model.parameters(), sums)
            if finite:
                optimizer.step()
                average.update_parameters(model)
            optimizer.zero_grad()

            totals = Totals(*values)
            position = Position(epoch, position.batch + count, position.total + count)
            meter.update(totals, count)
            if logs is not None:
                logs.write(position.total, _train_scalars(totals))
            collapse.check(totals, bool(finite), position.total)
            stopped = group.any(stop.asked)
            if time.monotonic() - saved > SAVE_EVERY:
                saved = save()
        meter.close()
        saved = save()
        if stopped:
            break
        if group.leads:
            save_weights(folder / f"save-{epoch}.pth", averaged)
        # interrupted validation is done again after --resume, as the position is still the end of this epoch; a run
        # that begins with it takes the time it needs, or a short limit would end it every time
        asked = (lambda: stop.signalled) if position.total == begun else (lambda: stop.asked)
        results = _validate(averaged, source, group, asked)
        if results is None:
            break
        if logs is not None and results:
            _log_validation(logs, position.total, epoch, results)
        position = replace(position, epoch=epoch + 1, batch=0)
        saved = save()

    final = folder / "final.pth"
    if group.leads:
        save_weights(final, averaged)
    return final


def _prepare(
    batch: list[Tuple], number: int, options: TrainOptions, group: Group
) -> tuple[list[Tuple], list[torch.Generator]]:
    """The batch, augmented on request, and the generators of its keypoints, by the numbers of the tuples alone."""
    first = (number * group.size + group.rank) * options.batch_size
    numbers = range(first, first + len(batch))
    if options.augment:
        batch = [
            _augmented(views, tuple_generator(options.seed, number, "augmentation", torch.device("cpu")))
            for views, number in zip(batch, numbers, strict=True)
        ]
    return batch, [tuple_generator(options.seed, number, "keypoints", group.device) for number in numbers]


def _augmented(views: Tuple, generator: torch.Generator) -> Tuple:
    images = augment(torch.stack([view.image for view in views]), generator)
    return [replace(view, image=image) for view, image in zip(views, images, strict=True)]


def _validate(model: DISK, source: TrainingData, group: Group, asked: Callable[[], bool]) -> list[PairResult] | None:
    """The results of all pairs of all test tuples, shared among the processes; None if asked to stop."""
    mine: list[PairResult] = []
    stopped = False
    numbers = range(group.rank, source.test_length, group.size)
    with progress_bar("validation", "tuple", len(numbers)) as bar:
        for number in numbers:
            stopped = asked()
            if stopped:
                break
            mine += validate_tuple(model, source.test(number))
            bar.update(1)
    parts = group.gather(None if stopped else mine)
    if any(part is None for part in parts):
        return None
    return [result for part in parts for result in part]


def _log_validation(logs: Logs, step: int, epoch: int, results: list[PairResult]) -> None:
    summary = summarise(results)
    if has_poses():
        for result in results:
            logs.write(step, pose_scalars(result))
    else:
        log.warning("poselib is not installed: no poses in the validation")
    logs.write(step, {"epoch": float(epoch), **summary})
    log.info("epoch %d: %s", epoch, ", ".join(f"{tag.split('/')[-1]} {v:.3g}" for tag, v in summary.items()))


def _train_scalars(totals: Totals) -> dict[str, float]:
    """Means over pairs and images under the original's tags."""
    pairs, images = max(totals.pairs, 1), max(totals.images, 1)
    return {
        "train/reward": totals.reward / pairs,
        "train/n_keypoints": totals.keypoints / images,
        "train/n_pairs": totals.matches / pairs,
    }


def _initial_model(weights: str | None, desc_dim: int) -> DISK:
    if weights is None:
        return DISK(desc_dim)
    model = load(weights, "cpu")
    if model.desc_dim != desc_dim:
        raise CheckpointError(f"{weights}: descriptors of length {model.desc_dim}; use --desc-dim {model.desc_dim}")
    return model


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function through torch.compile, which needs a C++ compiler and Python's headers on a processor."""
    from torch._dynamo.exc import TorchDynamoException

    compiled = torch.compile(function)

    def call(*args: Any) -> Any:
        try:
            return compiled(*args)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise TrainingError(f"--compile: torch.compile does not work here ({reason}); leave it out") from error

    return call


def _check(options: TrainOptions) -> None:
    for name in ("height", "width"):
        value = getattr(options, name)
        if value < STRIDE or value % STRIDE:
            raise TrainingError(f"--{name} {value}: must be a multiple of {STRIDE}")
    least = dict.fromkeys(("batch_size", "substep", "chunk_size", "n_epochs", "desc_dim"), 1)
    least |= dict.fromkeys(("warmup", "epoch_offset", "test_scene_limit", "workers", "seed"), 0)
    for name, value in {**least, "views": 2}.items():
        if getattr(options, name) < value:
            raise TrainingError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least {value}")
    if not 0 <= options.keypoint_penalty < float("inf"):
        raise TrainingError(f"--keypoint-penalty {options.keypoint_penalty}: must be at least 0")
    if not 0 <= options.keypoint_share <= 1:
        raise TrainingError(f"--keypoint-share {options.keypoint_share}: must lie from 0 to 1")
    if not 0 <= options.average < 1:
        raise TrainingError(f"--average {options.average}: must lie from 0 to below 1")
    for name in ("lr", "reward_threshold"):
        if not 0 < getattr(options, name) < float("inf"):
            raise TrainingError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be above 0")


def _plain(options: TrainOptions) -> dict[str, Any]:
    """The options as what a checkpoint may hold: no classes of ours."""
    return json.loads(json.dumps(asdict(options), default=str))


def _report_changes(former: dict[str, Any], now: dict[str, Any]) -> None:
    """Resuming with other options is allowed, but no longer the same training."""
    ignored = {"resume", "time_limit", "load"}
    changes = [
        f"--{name.replace('_', '-')} {former.get(name)} -> {value}"
        for name, value in now.items()
        if name not in ignored and former.get(name) != value
    ]
    if changes:
        log.warning("resuming with other options: %s", ", ".join(changes))
