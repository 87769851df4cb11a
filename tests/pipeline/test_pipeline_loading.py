"""Decoding runs ahead of the network, and images of equal shape are batched."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from brightest_pixel import BrightestPixel
from PIL import Image

import disk.pipeline.detect as stage
from disk.pipeline.detect import DetectOptions, detect


def test_decoding_runs_ahead_within_a_bound(tmp_path: Path, monkeypatch: Any) -> None:
    """While the network is busy with the first image, others are decoded, but no more than the bound."""
    (tmp_path / "in").mkdir()
    for i in range(20):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "in" / f"{i:02d}.png")
    started: list[str] = []
    real = stage.load_image

    def counting(file: Any, **options: Any) -> Any:
        started.append(file.name)
        return real(file, **options)

    class Slow(BrightestPixel):
        ahead: int | None = None

        def start(self, *arguments: Any) -> Any:
            if self.ahead is None:
                time.sleep(0.5)
                self.ahead = len(started)
            return super().start(*arguments)

    backend = Slow()
    monkeypatch.setattr(stage, "load_image", counting)
    monkeypatch.setattr("disk.model.disk.make_engine", lambda *arguments: backend)
    detect(tmp_path / "out", tmp_path / "in", DetectOptions(workers=2, batch_size=1))
    assert len(started) == 20
    assert backend.ahead is not None
    assert 2 <= backend.ahead <= 4


def test_batches_hold_equal_shapes_and_skip_none(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "in").mkdir()
    for i in range(23):
        Image.fromarray(np.zeros((16 + 16 * (i % 3), 30, 3), np.uint8)).save(tmp_path / "in" / f"{i:02d}.png")
    backend = BrightestPixel()
    monkeypatch.setattr("disk.model.disk.make_engine", lambda *arguments: backend)
    assert detect(tmp_path / "out", tmp_path / "in", DetectOptions(batch_size=4)).detected == 23
    assert sum(size[0] for size in backend.sizes) == 23
    assert max(size[0] for size in backend.sizes) == 4
    assert len(backend.sizes) <= 9
