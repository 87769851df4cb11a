"""The smallest training, and its output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from disk.training.options import TrainOptions

TINY = TrainOptions(
    height=48, width=48, desc_dim=8, batch_size=1, chunk_size=3, warmup=3, n_epochs=2, test_scene_limit=1, workers=0,
    views=2, lr=1e-3,
)  # fmt: skip


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["disk"]
