"""Checkpoints of training: all that is needed to go on exactly, and the weights alone."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from disk.errors import CheckpointError
from disk.model.checkpoints import load_state
from disk.model.disk import DISK

VERSION = 2


@dataclass(frozen=True)
class Position:
    """Where training stands: `batch` batches of `epoch` are done, `total` since the start.

    There are no random states: all randomness is drawn from the seed and the number of the batch.
    """

    epoch: int
    batch: int
    total: int


def save_weights(path: Path, model: DISK) -> None:
    """Write the weights alone, as the original's training script does: under the key `disk`."""
    _write(path, {"disk": model.state_dict()})


def running_average(model: DISK, decay: float) -> AveragedModel:
    """A copy of the network that follows its weights as an exponential moving average; a decay of 0 just copies them.

    Gradients of few pairs are noisy, and the average is worth many times the batch (Polyak and Juditsky 1992). At first
    it is over the last tenth of the steps, so that the random start is soon forgotten.
    """

    def blend(average: torch.Tensor, weight: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
        return torch.lerp(weight, average, min(decay, (1 + float(count)) / (10 + float(count))))

    return AveragedModel(model, avg_fn=blend)


def save_state(
    path: Path,
    model: DISK,
    average: AveragedModel,
    optimizer: torch.optim.Optimizer,
    position: Position,
    options: dict[str, Any],
) -> None:
    """Write weights, their average, optimiser, position and options."""
    state = {
        "disk": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "position": [position.epoch, position.batch, position.total],
        "options": options,
        "version": VERSION,
    }
    _write(path, state)


def restore(
    path: Path, model: DISK, average: AveragedModel, optimizer: torch.optim.Optimizer
) -> tuple[Position, dict[str, Any]]:
    """Read what `save_state` wrote into model, average and optimiser; returns position and options.

    Raises CheckpointError if the file is damaged, of another network, or holds weights alone.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different class for each kind of damage
        raise CheckpointError(f"{path}: not a readable checkpoint; go on from a save-*.pth with --load") from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise CheckpointError(f"{path}: not the state of a training; to start from its weights use --load")
    load_state(model, state["disk"], path)
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return Position(*state["position"]), state["options"]


def _write(path: Path, state: dict[str, Any]) -> None:
    """The file appears when it is complete: whatever happens, the previous one survives."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        kept = "the previous one is kept; " if path.exists() else ""
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}); {kept}make room and go on with --resume"
        ) from error
