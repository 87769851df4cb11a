"""The whole loop on tiny data: exact resumption, schedule, stopping, logs."""

from __future__ import annotations

import math
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TINY, records, weights
from torch._dynamo.exc import TorchDynamoException

from disk.errors import ArtifactError, TrainingError
from disk.model import engine
from disk.model.checkpoints import load
from disk.model.disk import DISK
from disk.storage.locks import folder_lock
from disk.training import loop
from disk.training.data import TrainingData
from disk.training.distributed import Group
from disk.training.logs import Logs, read_scalars
from disk.training.loop import train
from disk.training.state import Position, saved_options
from disk.training.validation import PairResult


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """A real SIGINT, once, after `step` batches."""
    write = Logs.write

    def write_and_interrupt(self: Logs, at: int, scalars: dict[str, float]) -> None:
        write(self, at, scalars)
        if at == step and "train/lr" in scalars:
            monkeypatch.setattr(Logs, "write", write)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Logs, "write", write_and_interrupt)


@pytest.mark.parametrize("kind", ["photos", "mixed"])
def test_stopped_and_resumed_equals_undisturbed(
    kind: str, photos: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, with augmentation and gradient accumulation, interrupted within an epoch."""
    source = None if kind == "photos" else data
    options = replace(
        TINY, synthesize=photos, augment=True, substep=2, average=0.9, lr_schedule="cosine", lr_warmup=2, batch_size=2
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(source, replace(options, save_dir=whole))
    interrupt_at(monkeypatch, 5)  # epoch 1 has batches 4 to 6 and steps after 5 and 6
    train(source, replace(options, save_dir=parts))
    assert Position(*torch.load(parts / "last.pth", weights_only=True)["position"]) == Position(1, 2, 5)
    assert not (parts / "save-1.pth").exists()
    train(source, replace(options, save_dir=parts, resume=True))

    for name in ("final.pth", "save-0.pth", "save-1.pth"):
        expected, found = weights(whole / name), weights(parts / name)
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert records(parts) == records(whole)


class Killed(BaseException):
    """No code handles it."""


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_killed_before_a_state_is_saved_then_resumed(
    number: int, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs save four states: after the steps of each, and after its validation, which is logged by then."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = replace(TINY, synthesize=photos)
    train(None, replace(options, save_dir=whole))
    save, calls = loop.save_state, 0

    def killed(path: Path, model: Any, average: Any, optimizer: Any, position: Position, *rest: Any) -> None:
        nonlocal calls
        calls += 1
        steps = [step for step, _ in read_scalars(parts)["train/lr"]]
        assert steps == list(range(1, position.total + 1))  # the logs are as far as the saved state
        if calls == number:
            raise Killed
        save(path, model, average, optimizer, position, *rest)

    monkeypatch.setattr(loop, "save_state", killed)
    with pytest.raises(Killed):
        train(None, replace(options, save_dir=parts))
    train(None, replace(options, save_dir=parts, resume=True))
    assert records(parts) == records(whole)
    assert read_scalars(parts) == read_scalars(whole)
    expected = weights(whole / "final.pth")
    assert all(torch.equal(expected[key], value) for key, value in weights(parts / "final.pth").items())


def test_a_second_training_in_the_same_folder_is_refused(photos: Path, tmp_path: Path) -> None:
    with folder_lock(tmp_path / "run"), pytest.raises(ArtifactError, match="in use by another run"):
        train(None, replace(TINY, synthesize=photos, save_dir=tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_the_learning_rate_is_that_of_the_schedule(photos: Path, tmp_path: Path) -> None:
    """Five steps: one of the warm-up, then half a cosine."""
    options = replace(TINY, synthesize=photos, substep=2, n_epochs=2, chunk_size=4, test_scene_limit=0)
    train(None, replace(options, save_dir=tmp_path, lr=1e-3, lr_warmup=1, lr_schedule="cosine", lr_final=1e-4))
    steps = [(1 + math.cos(math.pi * done / 3)) / 2 for done in (1, 2, 3)]
    assert [record["train/lr"] for record in records(tmp_path)] == pytest.approx(
        [1e-3, *(1e-4 + 9e-4 * part for part in steps)]
    )


def test_the_last_step_of_all_epochs_has_the_final_rate() -> None:
    """Two epochs of two steps each, counted from the offset."""
    options = replace(TINY, lr=1.0, lr_schedule="cosine", lr_final=0.0, chunk_size=2, warmup=2, epoch_offset=3)
    rates = [loop._rate(options, epoch, batch) for epoch in (3, 4) for batch in (0, 1)]
    assert rates == pytest.approx([(1 + math.cos(math.pi * done / 4)) / 2 for done in (1, 2, 3, 4)])


def test_a_resumed_training_uses_the_given_learning_rate(photos: Path, tmp_path: Path) -> None:
    options = replace(TINY, synthesize=photos, save_dir=tmp_path, time_limit=0.0)
    train(None, options)
    before = weights(tmp_path / "last.pth")
    train(None, replace(options, resume=True, lr=1e-30))
    assert all(torch.equal(before[key], value) for key, value in weights(tmp_path / "last.pth").items())
    train(None, replace(options, resume=True, lr=1e-2))
    assert any((before[key] - value).abs().max() > 5e-3 for key, value in weights(tmp_path / "last.pth").items())


def test_a_compiler_that_does_not_work_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise TorchDynamoException("\nno C++ compiler\nhere is a page of advice\n")

    monkeypatch.setattr(torch, "compile", lambda function: fail)
    with pytest.raises(TrainingError, match=r"torch.compile does not work here \(no C\+\+ compiler\); leave it out$"):
        loop._compiled(len)("text")


def test_the_average_is_saved_and_validated(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoints of epochs, the final one and the validation use the average; last.pth has both."""
    validated: list[dict[str, torch.Tensor]] = []
    validate = loop.validate_tuple

    def spy(model: DISK, views: list[Any]) -> list[PairResult]:
        validated.append({key: value.clone() for key, value in model.state_dict().items()})
        return validate(model, views)

    monkeypatch.setattr(loop, "validate_tuple", spy)
    train(None, replace(TINY, synthesize=photos, save_dir=tmp_path, n_epochs=1, average=0.9))
    state = torch.load(tmp_path / "last.pth", weights_only=True)
    average = {key.removeprefix("module."): value for key, value in state["average"].items() if "module." in key}
    assert any(not torch.equal(average[key], value) for key, value in state["disk"].items())
    for found in (weights(tmp_path / "save-0.pth"), weights(tmp_path / "final.pth"), *validated):
        assert all(torch.equal(found[key], value) for key, value in average.items())
    assert validated


@pytest.mark.parametrize(("seconds", "expected"), [(300.0, [3, 5]), (300.4, [2, 4, 5])])
def test_a_long_epoch_is_saved_every_ten_minutes(
    seconds: float, expected: list[int], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated batches of some seconds: saved when more than 600 seconds have passed since the last save."""
    saved: list[Position] = []
    now = 5000.0
    save, step = loop.save_state, loop.accumulate_gradient

    def spy(path: Path, model: Any, average: Any, optimizer: Any, position: Position, *rest: Any) -> None:
        saved.append(position)
        save(path, model, average, optimizer, position, *rest)

    def slow(*arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal now
        now += seconds
        return step(*arguments, **options)

    monkeypatch.setattr(loop, "save_state", spy)
    monkeypatch.setattr(loop, "accumulate_gradient", slow)
    monkeypatch.setattr(loop.time, "monotonic", lambda: now)
    options = replace(TINY, synthesize=photos, save_dir=tmp_path / "deep" / "down", n_epochs=1, warmup=5, chunk_size=5)
    train(None, replace(options, test_scene_limit=0))
    assert [position.batch for position in saved if position.epoch == 0] == expected


def test_an_epoch_of_little_data_is_one_pass(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="disk")
    options = replace(TINY, save_dir=tmp_path, chunk_size=None, warmup=250, batch_size=2, n_epochs=2)
    train(data, replace(options, test_scene_limit=0))
    assert f"epochs of 3 batches, one pass over 6 tuples of {data}" in caplog.text
    assert "no validation: as requested" in caplog.text
    assert torch.load(tmp_path / "last.pth", weights_only=True)["position"] == [2, 0, 6]
    assert saved_options(tmp_path / "last.pth")[1].chunk_size == 3


def test_an_epoch_may_take_several_passes(data: Path, tmp_path: Path) -> None:
    """Eight batches of one of six tuples."""
    train(data, replace(TINY, save_dir=tmp_path, chunk_size=8, warmup=8, n_epochs=1, test_scene_limit=0))
    assert torch.load(tmp_path / "last.pth", weights_only=True)["position"] == [1, 0, 8]


def test_options_without_effect_are_named(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = replace(TINY, save_dir=tmp_path, time_limit=0.0, lr_final=1e-6, synthetic_share=0.1)
    train(data, options)
    for expected in ("views=2 (without synthesize)", "synthetic_share=0.1", "lr_final=1e-06 (with lr_schedule='con"):
        assert f"not used: {expected}" in caplog.text
    assert TINY.unused(data) == ["views=2 (without synthesize)"]


def test_a_finished_training_is_reported(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="disk")
    options = replace(TINY, synthesize=photos, save_dir=tmp_path, n_epochs=1, warmup=1, resume=True)
    train(None, options)
    assert "last.pth does not exist: starting a new training" in caplog.text
    train(None, options)
    assert "1 epoch done; increase n_epochs to continue training" in caplog.text


def test_emulated_precision_logs_a_warning(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine, "has_instructions", lambda precision: precision != "bf16")
    short = replace(TINY, synthesize=photos, n_epochs=1, warmup=1, test_scene_limit=0)
    train(None, replace(short, save_dir=tmp_path / "fp32"))
    assert "instructions" not in caplog.text
    train(None, replace(short, save_dir=tmp_path / "bf16", precision="bf16"))
    assert "no bf16 instructions" in caplog.text


def test_training_changes_the_weights_and_logs(data: Path, tmp_path: Path) -> None:
    final = train(data, replace(TINY, save_dir=tmp_path))
    torch.manual_seed(0)
    fresh = DISK(8).state_dict()
    assert any(not torch.equal(fresh[key], value) for key, value in weights(final).items())
    assert load(final).desc_dim == load(tmp_path / "last.pth").desc_dim == 8
    logged = records(tmp_path)
    tags = {tag for record in logged for tag in record}
    assert tags == {
        "step", "epoch", "train/lr", *(f"train/{x}" for x in ("reward_per_pair", "matches_per_pair")),
        *(f"test/{x}_per_pair" for x in ("matches", "right", "wrong", "reward")), "test/precision",
        "train/keypoints_per_image", "test/keypoints_per_image", "test/pose/mAA10",
        *(f"test/pose/{x}" for x in ("rotation_error", "translation_error", "inliers", "found")),
    }  # fmt: skip
    # 36 cells of 8x8 pixels
    assert all(0 < record["train/keypoints_per_image"] <= 36 for record in logged if "train/lr" in record)
    assert [record["epoch"] for record in logged if "epoch" in record] == [0, 1]


def test_original_reward_is_an_option(data: Path, tmp_path: Path) -> None:
    options = replace(TINY, n_epochs=1, warmup=1, reward="epipolar", test_scene_limit=0)
    rewards = []
    for original in (False, True):
        train(data, replace(options, save_dir=tmp_path / str(original), original_reward=original))
        rewards.append(records(tmp_path / str(original))[0]["train/reward_per_pair"])
    assert rewards[0] < rewards[1]  # some of the matches on the line have their point behind the cameras


def test_time_limit_saves_and_ends(photos: Path, tmp_path: Path) -> None:
    train(None, replace(TINY, synthesize=photos, save_dir=tmp_path, time_limit=0.0))
    state = torch.load(tmp_path / "last.pth", weights_only=True)
    assert state["position"] == [0, 1, 1]


def test_a_time_limit_shorter_than_a_validation_makes_progress(photos: Path, tmp_path: Path) -> None:
    options = replace(TINY, synthesize=photos, save_dir=tmp_path, time_limit=0.0, resume=True)
    positions = []
    for _ in range(2 * TINY.warmup):
        train(None, options)
        positions.append(torch.load(tmp_path / "last.pth", weights_only=True)["position"])
    assert [0, TINY.warmup, TINY.warmup] in positions  # the first validation was postponed
    assert positions[-1][0] == 1


def test_a_validation_of_triplets_is_complete_or_none(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = PairResult(keypoints=1.0, right=1, wrong=0, rotation=0.0, translation=0.0, inliers=1, success=True)
    monkeypatch.setattr(loop, "validate_tuple", lambda model, views: [result] * 3)
    group = Group(0, 1, torch.device("cpu"))
    source = TrainingData(None, replace(TINY, synthesize=photos, views=3, test_scene_limit=4), group)
    asked = iter([False, False, True])  # it stops after the third call
    assert loop._validate(DISK(8), source, group, lambda: next(asked)) is None
    shown = []

    class Bar:
        def update(self, count: int) -> None:
            shown.append(count)

    monkeypatch.setattr(loop, "progress_bar", lambda *arguments: nullcontext(Bar()))
    assert loop._validate(DISK(8), source, group, lambda: False) == [result] * 12
    assert shown == [1] * 4
