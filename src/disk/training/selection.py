"""Which checkpoint is best: the accuracy of poses over the epochs, from the logs of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from disk.errors import TrainingError
from disk.geometry.auc import mean_average_accuracy
from disk.shapes import Float
from disk.training.logs import read_scalars

ORIGINAL_LENGTH = 750  # pairs in the original's validation: 250 triplets
ROTATION, TRANSLATION, EPOCH = "test/pose/Δ_θ", "test/pose/Δ_T", "epoch"


@dataclass(frozen=True)
class EpochScore:
    """The validation after one epoch: area under the curve of max(Δ_θ, Δ_T) up to 10 degrees, 0 to 1."""

    epoch: int
    pairs: int
    auc: float


def validation_auc(log: Path, validation_length: int | None = None, legacy: bool = False) -> list[EpochScore]:
    """The score of each epoch in a TensorBoard file or a folder of them, ours or the original's.

    validation_length: pairs in a validation. Ours are told apart by their step; the original's need it, and have 750
    by default. legacy: score as the original, whose rotation errors are half the angle; otherwise those in its
    logs are doubled. Raises TrainingError for logs without validation.
    """
    scalars = read_scalars(log)
    if validation_length is not None and validation_length < 1:
        raise TrainingError(f"--validation-length {validation_length}: must be at least 1")
    if not scalars.get(ROTATION) or not scalars.get(TRANSLATION):
        raise TrainingError(f"{log}: holds no {ROTATION} and {TRANSLATION}; it is no log of a training with validation")
    steps = np.array([step for step, _ in scalars[ROTATION]])
    rotation, translation = (np.array([value for _, value in scalars[tag]]) for tag in (ROTATION, TRANSLATION))
    ours = EPOCH in scalars
    # our logs hold the whole angle, the original's half of it
    rotation = rotation * (1.0 if ours != legacy else 0.5 if ours else 2.0)
    length = min(len(rotation), len(translation))
    errors = np.nan_to_num(np.maximum(rotation[:length], translation[:length]), nan=180.0)
    if ours and validation_length is None:
        epochs = {step: int(value) for step, value in scalars[EPOCH]}
        return [_score(epochs[step], errors[steps[:length] == step]) for step in sorted(epochs)]
    size = validation_length or ORIGINAL_LENGTH
    whole = length // size
    if whole == 0:
        raise TrainingError(f"{log}: {length} pairs are not one validation of {size}; give --validation-length")
    return [_score(i, errors[i * size : (i + 1) * size]) for i in range(whole)]


def best(scores: Sequence[EpochScore]) -> EpochScore:
    """The highest score, the first of equal ones."""
    return max(scores, key=lambda score: score.auc)


def plot_auc(curves: dict[str, list[EpochScore]], path: Path) -> None:
    """Draw the AUC over the epochs of some trainings into an image file. Raises TrainingError if it cannot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, scores in curves.items():
        axes.plot([s.epoch for s in scores], [s.auc for s in scores], marker=".", label=name)
    axes.set(xlabel="epoch", ylabel="AUC at 10°, validation")
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: cannot draw there ({error}); use a .png or .svg file") from error


def _score(epoch: int, errors: Float[np.ndarray, " n"]) -> EpochScore:
    return EpochScore(epoch, len(errors), mean_average_accuracy(errors))
