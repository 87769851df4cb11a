"""Training checkpoints: the complete state, to resume exactly, and the weights alone."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from disk.errors import ArtifactError, CheckpointError
from disk.model.checkpoints import load_state, write_checkpoint
from disk.model.disk import DISK
from disk.options import option
from disk.storage.tensors import load_tensors
from disk.training.options import TrainOptions

VERSION = 2
_PATHS = ("save_dir", "synthesize")
_OF_ONE_CALL = {"save_dir", "resume", "time_limit", "load"}


@dataclass(frozen=True)
class Position:
    """Progress of a training: `batch` batches of `epoch` are done, `total` since the start.

    It needs no random state: all randomness derives from the seed and the number of the batch.
    """

    epoch: int
    batch: int
    total: int


def save_weights(path: Path, model: DISK) -> None:
    """Write the weights alone under the key `disk`, as the original's training script does."""
    _write(path, {"disk": model.state_dict()})


def running_average(model: DISK, decay: float) -> AveragedModel:
    """A copy of the network that holds the exponential moving average of its weights.

    Gradients of few pairs are noisy; averaging has the effect of a much larger batch (Polyak and Juditsky 1992). Early
    in training the average spans only the last tenth of the steps, so that the random initial weights soon fade out.
    decay: decay of the average; 0 copies the weights.
    """

    @torch.no_grad()
    def blend(average: Any, weights: Any, count: torch.Tensor | int) -> None:
        # read the count once per step, not once per weight: on a GPU each read waits for the device
        steps = float(count)
        torch._foreach_lerp_(average, weights, 1 - min(decay, (1 + steps) / (10 + steps)))

    return AveragedModel(model, multi_avg_fn=blend)


def save_state(
    path: Path,
    model: DISK,
    average: AveragedModel,
    optimizer: torch.optim.Optimizer,
    position: Position,
    data: Path | None,
    options: TrainOptions,
) -> None:
    """Write weights, their average, optimiser state, position, data and options."""
    state = {
        "disk": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "position": [position.epoch, position.batch, position.total],
        "options": _plain(data, options),
        "version": VERSION,
    }
    _write(path, state)


def restore(path: Path, model: DISK, average: AveragedModel, optimizer: torch.optim.Optimizer) -> Position:
    """Load what `save_state` wrote into model, average and optimiser; returns the position.

    Raises CheckpointError if the file is damaged, belongs to another network, or contains weights alone.
    """
    state = _read(path)
    load_state(model, state["disk"], path)
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return Position(*state["position"])


def saved_options(path: Path) -> tuple[Path | None, TrainOptions]:
    """Read the data and the options of a saved training.

    Raises CheckpointError as `restore` does.
    """
    known = _read(path)["options"]
    values = {f.name: known[f.name] for f in fields(TrainOptions) if f.name in known}
    values |= {name: Path(values[name]) for name in _PATHS if values.get(name) is not None}
    data = known.get("data")
    return None if data is None else Path(data), TrainOptions(**values)


def changes(path: Path, data: Path | None, options: TrainOptions) -> list[str]:
    """List what differs from the data and options of the saved training."""
    former, now = _plain(*saved_options(path)), _plain(data, options)
    return [
        f"{'DATA' if name == 'data' else option(name)} {former[name]} -> {value}"
        for name, value in now.items()
        if name not in _OF_ONE_CALL and former[name] != value
    ]


def _plain(data: Path | None, options: TrainOptions) -> dict[str, Any]:
    """Data and options as plain values, as weights_only needs; paths are absolute, to resume from any folder."""
    values = {"data": data, **asdict(options)}
    return {name: os.path.abspath(value) if isinstance(value, Path) else value for name, value in values.items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        state = load_tensors(path)
    except Exception as error:  # torch raises a different class for each kind of damage
        raise CheckpointError(
            f"{path}: not a readable checkpoint; start from a save-*.pth with {option('load')}"
        ) from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise CheckpointError(f"{path}: not a training state; to start from its weights use {option('load')}")
    return state


def _write(path: Path, state: dict[str, Any]) -> None:
    """Write atomically: the file appears once complete, and the previous one survives any failure."""
    try:
        write_checkpoint(path, state)
    except ArtifactError as error:
        kept = "; the previous one is kept" if path.exists() else ""
        raise CheckpointError(f"{error}{kept}; then continue with {option('resume', True)}") from error
