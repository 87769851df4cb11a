"""Which checkpoint is best: the accuracy of poses over the epochs, from the logs of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from disk.errors import ArtifactError, ImageError, TrainingError
from disk.geometry.auc import mean_average_accuracy
from disk.options import check_minimum, option
from disk.shapes import Float
from disk.training.logs import read_scalars
from disk.training.validation import FAILED, ROTATION_ERROR, TRANSLATION_ERROR

ORIGINAL_LENGTH = 750  # pairs in the original's validation: 250 triplets
EPOCH = "epoch"  # logged by ours alone
# of each pair: errors of rotation and translation, and whether there is a pose; ours, and what the original and our
# own logs before them have
_TAGS = (
    (ROTATION_ERROR, TRANSLATION_ERROR, "test/pose/found"),
    ("test/pose/Δ_θ", "test/pose/Δ_T", "test/pose/success"),
)


@dataclass(frozen=True)
class EpochScore:
    """The validation after one epoch: mAA(10) of max(rotation error, translation error), 0 to 1."""

    epoch: int
    pairs: int
    maa: float


def validation_scores(log: Path, validation_length: int | None = None, legacy: bool = False) -> list[EpochScore]:
    """The score of each epoch in a TensorBoard file or a folder of them, ours or the original's.

    validation_length: pairs in a validation. Ours are told apart by their step; the original's need it, and have 750
    by default. The original logs half the angle of rotation, and an angle of translation that minds its sign: scored
    as ours, the first is doubled and the second folded at 90 degrees. legacy: score as the original, whose figures
    are then left as they are; ours have half the angle of rotation, but no sign. A pair without a pose has an error
    of 180 degrees. Raises TrainingError for logs without validation.
    """
    check_minimum("validation_length", validation_length, 1)
    scalars = read_scalars(log)
    tags = next((tags for tags in _TAGS if scalars.get(tags[0]) and scalars.get(tags[1])), None)
    if tags is None:
        raise TrainingError(f"{log}: {_why_no_poses(scalars)}")
    steps = np.array([step for step, _ in scalars[tags[0]]])
    rotation, translation = (np.array([value for _, value in scalars[tag]]) for tag in tags[:2])
    length = min(len(rotation), len(translation))
    steps, rotation, translation = steps[:length], rotation[:length], translation[:length]
    found = np.array([value > 0 for _, value in scalars.get(tags[2], [])])
    found = found if len(found) == length else rotation < FAILED
    ours = EPOCH in scalars
    if ours and legacy:
        rotation = rotation / 2
    elif not ours and not legacy:
        rotation, translation = 2 * rotation, np.minimum(translation, 180 - translation)
    errors = np.where(found, np.maximum(rotation, translation), FAILED)
    errors = np.nan_to_num(errors, nan=FAILED)
    if ours and validation_length is None:
        epochs = {step: int(value) for step, value in scalars[EPOCH]}
        return [_score(epochs[step], errors[steps == step]) for step in sorted(epochs)]
    size = validation_length or ORIGINAL_LENGTH
    whole = length // size
    if whole == 0:
        raise TrainingError(
            f"{log}: {length} pairs are not one validation of {size}; give {option('validation_length')}"
        )
    return [_score(i, errors[i * size : (i + 1) * size]) for i in range(whole)]


def _why_no_poses(scalars: dict[str, list[tuple[int, float]]]) -> str:
    if EPOCH in scalars:
        return "validated without poses, as poselib was not installed; install it and resume the training"
    if any(tag.startswith("train/") for tag in scalars):
        return "nothing validated yet; a training validates at the end of each epoch, if it has test data"
    return "is no log of a training"


def best(scores: Sequence[EpochScore]) -> EpochScore:
    """The highest score, the first of equal ones."""
    return max(scores, key=lambda score: score.maa)


def plot_scores(curves: dict[str, list[EpochScore]], path: Path) -> None:
    """Draw mAA(10) over the epochs of some trainings into an image file. Raises TrainingError if it cannot,
    ImageError where it would replace a picture that was not drawn by this program."""
    from matplotlib.figure import Figure

    from disk.viewing.canvas import refuse_other_picture, save

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, scores in curves.items():
        axes.plot([s.epoch for s in scores], [s.maa for s in scores], marker=".", label=name)
    axes.set(xlabel="epoch", ylabel="mAA(10), validation")
    axes.grid(alpha=0.3)
    axes.legend()
    refuse_other_picture(path)
    try:
        save(figure, path)
    except (ArtifactError, ImageError) as error:
        raise TrainingError(f"{path}: cannot draw there ({error}); use a .png or .svg file") from error


def _score(epoch: int, errors: Float[np.ndarray, " n"]) -> EpochScore:
    return EpochScore(epoch, len(errors), mean_average_accuracy(errors))
