"""A folder of photos for which `detect` returns the features of a scene."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disk.images.listing import list_images
from disk.pipeline import reconstruct as stage
from disk.pipeline.reconstruct import Reconstruction, ReconstructOptions, reconstruct
from disk.storage.forget import known_images
from synthetic_scene import Scene, write_features, write_photos


class SceneFolder:
    """photos and out are folders; detected lists the images that `detect` was called for, run by run."""

    def __init__(self, tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch, suffix: str = ".jpg") -> None:
        self.photos, self.out, self.scene = tmp_path / "photos", tmp_path / "out", scene
        self.detected: list[list[str]] = []
        self.before_writing: Callable[[], None] = lambda: None
        write_photos(scene, self.photos, suffix)
        monkeypatch.setattr(stage, "detect", self.detect)
        # it would run the network
        monkeypatch.setattr(stage, "turn_unconnected", lambda *arguments, **options: [])

    def detect(self, artifacts: Path, images: Path, options: Any, only: set[str]) -> None:
        """Like `disk detect`: features of those images in the folder that have none yet."""
        files = [file for file in list_images(images) if file.name in only]
        todo = [file.name for file in files if file.name not in known_images(artifacts)]
        self.detected.append(todo)
        self.before_writing()
        if todo:
            write_features(self.scene, artifacts, todo, suffix=".jpg")

    def run(self, **options: Any) -> Reconstruction:
        return reconstruct(self.photos, self.out, ReconstructOptions(**options))
