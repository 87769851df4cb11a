"""Choice of the best checkpoint: pose accuracy per epoch, read from training logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from disk.errors import ArtifactError, ImageError, TrainingError
from disk.geometry.auc import mean_average_accuracy
from disk.options import check_minimum, option
from disk.progress import counted
from disk.shapes import Float
from disk.training.logs import read_scalars
from disk.training.validation import FAILED, ROTATION_ERROR, TRANSLATION_ERROR

ORIGINAL_LENGTH = 750  # pairs in the original's validation: 250 triplets
EPOCH = "epoch"  # only our logs have it
# of each pair: rotation error, translation error, whether there is a pose; our tags, then those of the original and of
# our older logs
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
    """Compute the score of each epoch from our training logs or the original's.

    The original logs half the rotation angle and a translation angle that depends on the sign of the translation. To
    compare with ours, the rotation is doubled and the translation folded at 90 degrees. A pair without a pose has an
    error of 180 degrees.
    log: a TensorBoard file, or a folder of them.
    validation_length: number of pairs per validation. Our logs do not need it, as each validation has its own step; for
    the original's the default is 750.
    legacy: score as the original does: its errors are used as logged, and our rotation errors are halved. Our
    translation errors have no sign, so they differ from the original's.

    Raises TrainingError if the logs contain no validation.
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
            f"{log}: {counted(length, 'pair')}, less than one validation of {size}; set {option('validation_length')}"
        )
    return [_score(i, errors[i * size : (i + 1) * size]) for i in range(whole)]


def _why_no_poses(scalars: dict[str, list[tuple[int, float]]]) -> str:
    if EPOCH in scalars:
        return "validated without poses because poselib was not installed; install it and resume the training"
    if any(tag.startswith("train/") for tag in scalars):
        return "nothing validated yet; training validates at the end of each epoch, if it has test data"
    return "not a training log"


def best(scores: Sequence[EpochScore]) -> EpochScore:
    """The epoch with the highest score; the first one if several are equal."""
    return max(scores, key=lambda score: score.maa)


def plot_scores(curves: dict[str, list[EpochScore]], path: Path) -> None:
    """Plot mAA(10) against the epoch for one or more trainings into an image file.

    Raises TrainingError if the file cannot be written, ImageError if it would replace a picture that was not drawn by
    this program.
    """
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
