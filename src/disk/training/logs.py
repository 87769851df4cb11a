"""Training logs: TensorBoard files, and the same as JSON lines.

A quantity that differs from what the original logs has a different tag.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from disk.errors import TrainingError, require
from disk.options import option
from disk.storage.new_file import write_text
from disk.training.step import Totals


class Logs:
    """Writes scalars to TensorBoard events and log.jsonl in a folder. The step is the number of batches done."""

    def __init__(self, folder: Path, step: int, validated: bool = True) -> None:
        """Continue after `step`: drops what an interrupted run logged beyond it.

        validated: whether the validation after that step is done; if not, its records are dropped too
        """
        require("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "log.jsonl"
        again: list[str] = []
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            kept = [line for line in lines if _step_of(line) <= step]
            if not validated:
                again = [line for line in kept if _step_of(line) == step and '"train/' in line]
                kept = [line for line in kept if _step_of(line) < step] + again
            write_text(path, "".join(kept))
        _wait_for_a_later_name(folder)
        self._events = SummaryWriter(str(folder), purge_step=step + 1 if validated else step)
        for line in again:  # TensorBoard drops a step as a whole
            self._add_events(step, {tag: value for tag, value in json.loads(line).items() if tag != "step"})
        self._lines = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115, closed in close()
        self._folder = folder
        self._hook = threading.excepthook
        threading.excepthook = self._leave_to_writer

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Log the values of some tags. Raises TrainingError when they cannot be written, as do all methods."""
        with self._written():
            self._add_events(step, scalars)
            self._lines.write(json.dumps({"step": step, **scalars}, ensure_ascii=False) + "\n")

    def flush(self) -> None:
        """Write pending events, so that they survive a kill; lines are written as they are logged."""
        with self._written():
            self._events.flush()

    def close(self) -> None:
        """Flush and close the files."""
        with self._written(), ExitStack() as cleanup:
            cleanup.callback(setattr, threading, "excepthook", self._hook)
            cleanup.callback(self._lines.close)
            self._events.close()

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"cannot write the logs in {self._folder}: {error.strerror or error}; when that is mended, continue "
                f"with {option('resume', True)}"
            ) from error

    def _leave_to_writer(self, failure: threading.ExceptHookArgs) -> None:
        """What fails in TensorBoard's thread is raised in `write`, `flush` or `close`; it is no news before."""
        if not isinstance(failure.exc_value, OSError):
            self._hook(failure)

    def _add_events(self, step: int, scalars: dict[str, float]) -> None:
        for tag, value in scalars.items():
            self._events.add_scalar(tag, value, step)


def train_scalars(totals: Totals) -> dict[str, float]:
    """Means over the pairs and images of one step; rewards exclude the keypoint penalty."""
    pairs, images = max(totals.pairs, 1), max(totals.images, 1)
    return {
        "train/reward_per_pair": totals.reward / pairs,
        "train/matches_per_pair": totals.matches / pairs,
        "train/keypoints_per_image": totals.keypoints / images,
    }


def read_scalars(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Read the (step, value) pairs of each tag, in the order they were written.

    path: a TensorBoard file, or a folder of them.

    Raises TrainingError if there is no such file or if it is damaged.
    """
    require("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    if not path.exists():
        raise TrainingError(f"{path}: no such file or folder")
    if path.is_dir() and not any(path.glob("*tfevents*")):
        below = sorted({str(file.parent) for file in path.rglob("*tfevents*")})
        raise TrainingError(
            f"{path}: contains no TensorBoard files (*tfevents*)" + (f"; give {' '.join(below[:5])}" if below else "")
        )
    events = EventAccumulator(str(path), size_guidance={SCALARS: 0})  # 0: keep all
    try:
        events.Reload()
    except Exception as error:  # protobuf and tensorboard raise many kinds of exceptions for a damaged file
        raise TrainingError(f"{path}: damaged TensorBoard file ({' '.join(str(error).split())})") from error
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()[SCALARS]}


def _wait_for_a_later_name(folder: Path) -> None:
    """Wait until a new event file would sort after the existing ones: the names begin with a time in whole seconds."""
    names = [file.name.split(".") for file in folder.glob("events.out.tfevents.*")]
    latest = max((int(name[3]) for name in names if name[3].isdecimal()), default=0)
    while latest <= time.time() < latest + 1:
        time.sleep(0.05)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut off by a crash
