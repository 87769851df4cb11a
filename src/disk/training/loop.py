"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from disk.errors import CheckpointError, TrainingError
from disk.model.checkpoints import load
from disk.model.disk import DISK
from disk.model.engine import warn_of_emulation
from disk.options import AnyPath, option
from disk.progress import counted, log, progress_bar
from disk.storage.locks import folder_lock
from disk.training.data import Ahead, TrainingData
from disk.training.distributed import Group, joined, reduce_gradients
from disk.training.logs import Logs, train_scalars
from disk.training.options import TrainOptions
from disk.training.schedule import learning_rate, weights_at
from disk.training.state import Position, changes, restore, running_average, save_state, save_weights
from disk.training.step import Objective, Totals, accumulate_gradient, tuple_generator
from disk.training.validation import PairResult, has_poses, pose_scalars, summarise, validate_tuple
from disk.training.watch import CollapseWatch, Meter, Stop, stopping

SAVE_EVERY = 600.0  # seconds between saves within an epoch


def train(data: AnyPath | None = None, options: TrainOptions = TrainOptions()) -> Path:
    """Train the network on a data set, on scenes rendered from photos, or on both.

    SIGINT, SIGTERM and the time limit stop the training after saving its state; `resume` continues it. Returns the
    path of the final weights.
    data: folder with train/dataset.json and test/dataset.json; None trains on rendered scenes only.

    Raises TrainingError if an option cannot be used or if the training collapses.
    """
    data = None if data is None else Path(data)
    options.check()
    with stopping(options.time_limit) as stop, joined(options.device) as group, ExitStack() as cleanup:
        return _train(data, options, group, stop, cleanup)


def _train(data: Path | None, options: TrainOptions, group: Group, stop: Stop, cleanup: ExitStack) -> Path:
    folder, last = options.save_dir, options.save_dir / "last.pth"
    if group.leads and find_spec("filelock"):  # a machine that only trains may lack it
        cleanup.enter_context(folder_lock(folder))
    resumed = last.exists()
    if resumed and not options.resume:
        raise TrainingError(
            f"{folder} contains a training run; continue it with {option('resume', True)} "
            f"or choose another {option('save_dir')}"
        )
    for name in options.unused(data):
        log.warning("not used: %s", name)
    warn_of_emulation(group.device, options.precision)
    torch.manual_seed(options.seed)
    model = _initial_model(None if resumed else options.load, options.desc_dim).to(group.device)
    average = running_average(model, options.average)
    averaged: DISK = average.module  # type: ignore[assignment]
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    position = Position(options.epoch_offset, 0, 0)
    if resumed:
        position = restore(last, model, average, optimizer)
        log.info("resuming %s at epoch %d, batch %d", last, position.epoch, position.batch)
    elif options.resume:
        log.info("%s does not exist: starting a new training", last)
    if len(set(group.gather(position))) > 1:
        raise TrainingError(
            f"the processes read different states from {folder}; put {option('save_dir')} on a disk they all share"
        )
    begun = position.total
    end = options.epoch_offset + options.n_epochs
    if position.epoch >= end:
        log.info("%s done; increase %s to continue training", counted(options.n_epochs, "epoch"), option("n_epochs"))
    group.broadcast(model.state_dict().values())
    if options.compile and group.device.type == "cuda":
        log.warning(
            "%s is ignored on a GPU, where the network already runs in a form with few kernel launches",
            option("compile", True),
        )
    elif options.compile:
        model.unet.trunk = _compiled(model.unet.trunk)  # type: ignore[method-assign]
    source = TrainingData(data, options, group)
    options = replace(options, chunk_size=source.chunk_size)
    if resumed and (changed := changes(last, data, options)):
        log.warning("resuming with changed options: %s", ", ".join(changed))
    batches = Ahead(cleanup.enter_context(closing(source.batches(position.total))), group.device)
    if position.epoch < end:
        batches.check()
    collapse = CollapseWatch()
    logs = None
    if group.leads:
        logs = cleanup.enter_context(closing(Logs(folder, position.total, validated=position.batch == 0)))

    def save() -> float:
        if logs is not None:
            logs.flush()  # or a run killed later would resume without what was logged before
            save_state(last, model, average, optimizer, position, data, options)
        return time.monotonic()

    saved = time.monotonic()
    stopped = False
    for epoch in range(position.epoch, end):
        objective = _objective(options, epoch)
        length = options.batches(epoch)
        meter = Meter(epoch, length, position.batch)
        while position.batch < length and not stopped:
            # gradient of one optimiser step, summed over its batches and over all processes
            count = min(options.substep, length - position.batch)
            sums = torch.zeros(6, device=group.device)
            for number in range(position.total, position.total + count):
                batch = next(batches)
                numbers = source.mix.numbers(number)
                generators = [tuple_generator(options.seed, n, "keypoints", group.device) for n in numbers]
                sums += accumulate_gradient(
                    model,
                    batch,
                    generators,
                    objective,
                    bf16=options.precision == "bf16",
                )
                batches.prepare()
            *values, finite = reduce_gradients(group, model.parameters(), sums)
            rate = _rate(options, epoch, position.batch)
            if finite:
                optimizer.param_groups[0]["lr"] = rate
                optimizer.step()
                average.update_parameters(model)
            optimizer.zero_grad()

            totals = Totals(*values)
            position = Position(epoch, position.batch + count, position.total + count)
            meter.update(totals, count)
            if logs is not None:
                logs.write(position.total, {**train_scalars(totals), "train/lr": rate})
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
        # An interrupted validation is repeated after --resume, as the saved position is still the end of this epoch.
        # A call that starts with it ignores the time limit meanwhile, or a short limit would interrupt it every time.
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


def _objective(options: TrainOptions, epoch: int) -> Objective:
    return Objective(
        weights=weights_at(options.schedule, epoch, options.keypoint_penalty),
        threshold=options.reward_threshold,
        visibility=not options.original_reward,
        epipolar=options.reward == "epipolar",
        share=options.keypoint_share,
    )


def _rate(options: TrainOptions, epoch: int, batch: int) -> float:
    """Learning rate of the step that starts after `batch` batches of an epoch."""
    return learning_rate(
        options.lr_schedule,
        options.step(epoch, batch),
        options.step(options.epoch_offset + options.n_epochs, 0),
        peak=options.lr,
        final=options.lr_final,
        warmup=options.lr_warmup,
    )


def _validate(model: DISK, source: TrainingData, group: Group, asked: Callable[[], bool]) -> list[PairResult] | None:
    """Results of all pairs of all test tuples, with the work split among the processes; None if asked to stop."""
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
        log.warning("poselib is not installed: validation skips relative poses")
    logs.write(step, {"epoch": float(epoch), **summary})
    log.info("epoch %d: %s", epoch, ", ".join(f"{tag.split('/')[-1]} {v:.3g}" for tag, v in summary.items()))


def _initial_model(weights: str | None, desc_dim: int) -> DISK:
    if weights is None:
        return DISK(desc_dim)
    model = load(weights, "cpu")
    if model.desc_dim != desc_dim:
        length = model.desc_dim
        raise CheckpointError(f"{weights}: descriptors of length {length}; use {option('desc_dim', length)}")
    return model


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function with torch.compile, which on a CPU needs a C++ compiler and Python's headers."""
    from torch._dynamo.exc import TorchDynamoException

    compiled = torch.compile(function)

    def call(*args: Any) -> Any:
        try:
            return compiled(*args)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise TrainingError(
                f"{option('compile', True)}: torch.compile does not work here ({reason}); leave it out"
            ) from error

    return call
