"""The state that a training saves, and states that it refuses to continue."""

from __future__ import annotations

import math
import resource
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY

from disk.errors import CheckpointError, TrainingError
from disk.model.disk import DISK
from disk.training.distributed import Group
from disk.training.loop import train
from disk.training.state import (
    Position,
    changes,
    restore,
    running_average,
    save_state,
    save_weights,
    saved_options,
)


def test_resuming_needs_no_initial_weights(photos: Path, tmp_path: Path) -> None:
    options = replace(TINY, synthesize=photos, save_dir=tmp_path / "run", time_limit=0.0)
    torch.save({"disk": DISK(8).state_dict()}, tmp_path / "start.pth")
    train(None, replace(options, load=str(tmp_path / "start.pth")))
    (tmp_path / "start.pth").unlink()
    train(None, replace(options, load=str(tmp_path / "start.pth"), resume=True))
    assert torch.load(tmp_path / "run" / "last.pth", weights_only=True)["position"] == [0, 2, 2]


def test_machines_with_separate_folders_are_noticed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Group, "gather", lambda self, value: [value, Position(0, 0, 0)])
    options = replace(TINY, synthesize=photos, save_dir=tmp_path, time_limit=0.0)
    train(None, options)
    with pytest.raises(TrainingError, match="save_dir on a disk they all share"):
        train(None, replace(options, resume=True))


def test_an_existing_training_is_not_overwritten(photos: Path, tmp_path: Path) -> None:
    options = replace(TINY, synthesize=photos, save_dir=tmp_path, time_limit=0.0)
    train(None, options)
    with pytest.raises(TrainingError, match="resume"):
        train(None, options)


def test_full_disk_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    model = DISK(8)
    average = running_average(model, 0.0)
    optimizer = torch.optim.Adam(model.parameters())
    path = tmp_path / "last.pth"
    save_state(path, model, average, optimizer, Position(1, 2, 3), None, TINY)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="the previous one is kept"):
            save_state(path, model, average, optimizer, Position(4, 5, 6), None, TINY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert restore(path, model, average, optimizer) == Position(1, 2, 3)
    assert [file.name for file in tmp_path.iterdir()] == ["last.pth"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.sampled_from([0.0, 0.5, 0.99]))
def test_running_average_is_the_weighted_mean(values: list[float], decay: float) -> None:
    """Compared with the sum: value k has the weight (1 - d_k) times the product of all later decays d."""
    model = DISK(8)
    average = running_average(model, decay)
    bias = "unet.path_down.0.1.3.bias"
    for value in values:
        with torch.no_grad():
            model.get_parameter(bias).fill_(value)
        average.update_parameters(model)
    decays = [0.0] + [min(decay, (1 + k) / (10 + k)) for k in range(1, len(values))]
    expected = sum(value * (1 - decays[k]) * math.prod(decays[k + 1 :]) for k, value in enumerate(values))
    found = average.module.get_parameter(bias)
    torch.testing.assert_close(found, torch.full_like(found, expected), rtol=1e-5, atol=1e-5)


def test_checkpoint_of_another_architecture(photos: Path, data: Path, tmp_path: Path) -> None:
    options = replace(TINY, save_dir=tmp_path / "run", time_limit=0.0)
    train(data, options)
    with pytest.raises(CheckpointError, match="weights of another network"):
        train(data, replace(options, desc_dim=16, resume=True))
    with pytest.raises(CheckpointError, match="use desc_dim=8"):
        train(data, replace(options, save_dir=tmp_path / "b", desc_dim=16, load=str(tmp_path / "run" / "final.pth")))
    (tmp_path / "run" / "final.pth").replace(tmp_path / "run" / "last.pth")
    with pytest.raises(CheckpointError, match="to start from its weights use load"):
        train(data, replace(options, resume=True))
    (tmp_path / "run" / "last.pth").write_bytes(b"PK damaged")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        train(data, replace(options, resume=True))


def test_a_saved_state_has_its_version_and_resumes_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 2 can be read; paths are absolute, as a run may be resumed in another folder."""
    model = DISK(8)
    average, optimizer = running_average(model, 0.0), torch.optim.Adam(model.parameters())
    monkeypatch.chdir(tmp_path)
    options = replace(TINY, synthesize=Path("photos"), save_dir=Path("run"))
    save_state(Path("last.pth"), model, average, optimizer, Position(1, 2, 3), Path("data"), options)
    monkeypatch.chdir("/")
    path = tmp_path / "last.pth"
    data, saved = saved_options(path)
    assert (data, saved.synthesize, saved.save_dir) == (tmp_path / "data", tmp_path / "photos", tmp_path / "run")
    assert (
        changes(path, tmp_path / "data", replace(saved, save_dir=Path("elsewhere"), resume=True, time_limit=1.0)) == []
    )
    assert changes(path, None, replace(saved, lr=1e-5, load="x.pth")) == [
        f"DATA {tmp_path / 'data'} -> None", f"lr {saved.lr} -> 1e-05"
    ]  # fmt: skip
    state = torch.load(path, weights_only=True)
    assert state["version"] == 2
    for other in ({**state, "version": 1}, {**state, "version": 3}, [state]):
        torch.save(other, path)
        with pytest.raises(CheckpointError, match="not a training state"):
            restore(path, model, average, optimizer)
    save_state(path, model, average, optimizer, Position(0, 0, 0), None, replace(TINY, save_dir=Path("run")))
    assert saved_options(path)[0] is None
    with pytest.raises(FrozenInstanceError):
        Position(1, 2, 3).epoch = 4  # type: ignore[misc]


def test_a_first_state_that_cannot_be_written_has_no_previous_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="then continue with resume") as caught:
        save_weights(tmp_path / "file" / "a.pth", DISK(8))
    assert "previous" not in str(caught.value)
