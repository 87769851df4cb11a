"""The records of a killed training: neither lost nor doubled."""

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboard.summary.writer.record_writer import RecordWriter

from disk.errors import TrainingError
from disk.training.logs import Logs, read_scalars


def lines(folder: Path) -> list[str]:
    return (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()


def test_a_repeated_validation_is_logged_once(tmp_path: Path) -> None:
    """Killed after a validation was logged and before the state recorded it."""
    logs = Logs(tmp_path, 0)
    for step in (1, 2):
        logs.write(step, {"train/reward_per_pair": 10.0 * step, "train/lr": 1e-4})
    logs.write(2, {"test/pose/rotation_error": 3.0})
    logs.close()
    before = lines(tmp_path)

    again = Logs(tmp_path, 2, validated=False)
    again.write(2, {"test/pose/rotation_error": 3.0})
    again.close()
    assert lines(tmp_path) == before
    scalars = read_scalars(tmp_path)
    assert scalars["test/pose/rotation_error"] == [(2, 3.0)]
    assert scalars["train/reward_per_pair"] == [(1, 10.0), (2, 20.0)]

    Logs(tmp_path, 2).close()  # validated: nothing to drop
    assert lines(tmp_path) == before
    assert read_scalars(tmp_path)["test/pose/rotation_error"] == [(2, 3.0)]


def test_flushed_events_are_in_the_files(tmp_path: Path) -> None:
    """Otherwise TensorBoard's writer keeps events for up to two minutes."""
    logs = Logs(tmp_path, 0)
    logs.write(1, {"train/lr": 0.5})
    logs.flush()
    assert read_scalars(tmp_path)["train/lr"] == [(1, 0.5)]
    assert len(lines(tmp_path)) == 1
    logs.close()


@pytest.mark.parametrize("last", ["write", "flush", "close"])
def test_events_that_cannot_be_written_are_one_line(
    last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """TensorBoard's thread ends with a traceback, and the next write raises its error."""

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    hook = threading.excepthook
    logs = Logs(tmp_path, 0)
    monkeypatch.setattr(RecordWriter, "write", full)
    logs.write(1, {"train/lr": 0.5})
    time.sleep(0.3)
    with pytest.raises(TrainingError, match=r"cannot write the logs in .*No space left.*resume=True"):
        logs.write(2, {"train/lr": 0.5}) if last == "write" else getattr(logs, last)()
    if last != "close":
        with pytest.raises(TrainingError):
            logs.close()
    assert "Traceback" not in capfd.readouterr().err
    assert threading.excepthook is hook
