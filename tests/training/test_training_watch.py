"""A training that cannot recover stops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TINY, weights

from disk.errors import TrainingError
from disk.model.disk import DISK
from disk.training import loop, watch
from disk.training.loop import train


def test_collapse_is_noticed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PATIENCE", 2)
    model = DISK(8)
    with torch.no_grad():
        model.unet.path_up[-1].conv[3].bias[-1] = -1e4
    dead = tmp_path / "dead.pth"
    torch.save({"disk": model.state_dict()}, dead)
    with pytest.raises(TrainingError, match="collapsed: for 2 steps up to step 2 the network finds fewer than one"):
        train(data, replace(TINY, save_dir=tmp_path / "run", load=str(dead)))


def test_a_non_finite_gradient_changes_nothing(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accumulate = loop.accumulate_gradient

    def broken(model: DISK, *args: Any, **kwargs: Any) -> torch.Tensor:
        totals = accumulate(model, *args, **kwargs)
        gradient = next(model.parameters()).grad
        assert gradient is not None
        gradient[0] = torch.nan
        return totals

    monkeypatch.setattr(loop, "accumulate_gradient", broken)
    options = replace(TINY, synthesize=photos, test_scene_limit=0)
    final = train(None, replace(options, save_dir=tmp_path / "one", time_limit=0.0))
    torch.manual_seed(options.seed)
    fresh = DISK(8).state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in weights(final).items())

    monkeypatch.setattr(watch, "PATIENCE", 2)
    with pytest.raises(TrainingError, match="the gradient is not finite"):
        train(None, replace(options, save_dir=tmp_path / "many"))
