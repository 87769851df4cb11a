"""Unusable options and data are refused in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import TINY
from wall import write_wall

from disk.errors import DatasetError, DiskError, ImageError, TrainingError
from disk.training.loop import train


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 50}, "height[ =]50: must be a multiple of 16"),
        ({"batch_size": 0}, "batch[-_]size[ =]0: must be at least 1"),
        ({"workers": -1}, "workers[ =]-1: must be at least 0"),
        ({"views": 1}, "views[ =]1: must be at least 2"),
        ({"device": "cuda:77"}, "device[ =].?cuda:77"),
        ({"device": "tpu"}, "device[ =].?tpu"),
        ({"lr": float("nan")}, "lr[ =]nan"),
        ({"lr_final": 0.1, "lr_schedule": "cosine"}, "lr_final=0.1: must not be above lr=0.001"),
        ({"lr_warmup": -1}, "lr_warmup=-1: must be at least 0"),
        ({"time_limit": -1.0}, "time_limit=-1.0: must be at least 0"),
        ({"time_limit": float("inf")}, "time_limit=inf: must be a finite number"),
        ({"train_scene_limit": 0}, "train_scene_limit=0: must be at least 1"),
        ({"renderers": -1}, "renderers=-1: must be at least 0"),
        ({"seed": 1 << 63}, "seed=9223372036854775808: must be below"),
        (
            {"chunk_size": None, "batch_size": 7},
            "6 tuples cannot fill a batch of 7; .*batch.size, or add data",
        ),
        ({"batch_size": 7}, "6 tuples cannot fill a batch of 7"),
        ({"reward_threshold": 0.0}, "reward[-_]threshold[ =]0.0: must be above 0"),
        ({"average": 1.0}, "average[ =]1.0: must be at least 0 and below 1"),
        ({"keypoint_penalty": -0.1}, "keypoint[-_]penalty[ =]-0.1: must be at least 0"),
        ({"keypoint_share": 1.5}, "keypoint[-_]share[ =]1.5: must be between 0 and 1"),
        ({"synthetic_share": 2.0}, "synthetic[-_]share"),
        ({"load": "nowhere.pth"}, "nowhere.pth: no such checkpoint"),
    ],
)
def test_invalid_options(changes: dict[str, Any], message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=message):
        train(data, replace(TINY, save_dir=tmp_path / "run", **changes))


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nothing to train on"):
        train(None, replace(TINY, save_dir=tmp_path))
    with pytest.raises(DatasetError, match="no such file"):
        train(tmp_path / "absent", replace(TINY, save_dir=tmp_path))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_one_clear_line(workers: int, tmp_path: Path) -> None:
    write_wall(tmp_path / "wall", [[0, 1, 2]] * 4)
    (tmp_path / "wall" / "images" / "1.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"1\.png") as raised:
        train(tmp_path / "wall", replace(TINY, save_dir=tmp_path / "run", workers=workers))
    assert "\n" not in str(raised.value)
