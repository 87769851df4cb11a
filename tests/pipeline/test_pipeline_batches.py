"""Batches of images on this machine: what has started when a run ends early."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from disk.images.listing import ImageFile
from disk.model.disk import DISK
from disk.model.options import DetectionOptions
from disk.pipeline import batches
from disk.pipeline.loading import load_image
from disk.pipeline.options import Place
from disk.workers import share, start_each


def test_an_interruption_drops_the_images_that_have_not_started(
    tmp_path: Path, threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads(2)
    Image.new("L", (16, 16)).save(tmp_path / "a.png")
    loaded = load_image(ImageFile("a", tmp_path / "a.png", "a.png"), 0, None, None, {})
    closed, done, model = threading.Event(), list[object](), DISK()

    def detect(image: object) -> None:
        assert closed.wait(60)
        done.append(image)

    def start(model: DISK, batch: batches.Batch, options: DetectionOptions) -> Any:
        return list if len(batch) == 2 else start_each(detect, batch)

    monkeypatch.setattr(batches, "_start", start)

    def decoded() -> Iterator[batches.Batch]:
        yield [loaded] * 2
        yield [loaded] * 20
        raise KeyboardInterrupt

    # the traceback, as at the exit of a program, still has the frames of the run
    with batches.network(model, DetectionOptions(), Place()) as (run, _), pytest.raises(KeyboardInterrupt) as _raised:
        list(run(decoded(), batches.Waiting()))
    closed.set()
    share(lambda part: None, [0, 1], model.device)  # comes after all images that were not dropped
    assert len(done) <= 2
