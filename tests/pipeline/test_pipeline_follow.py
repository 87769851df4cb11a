"""Artifacts of earlier versions, which record only the sizes of the photos, not their contents."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_features import make_artifacts
from PIL import Image

from disk.images.listing import list_images
from disk.pipeline import follow
from disk.storage.forget import known_images


def test_features_without_notes_are_opened_once_for_all_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = dict.fromkeys("abcdef", 5)
    artifacts, photos = make_artifacts(tmp_path / "artifacts", counts), tmp_path / "photos"
    photos.mkdir()
    for name in counts:
        Image.new("L", (61, 60) if name == "c" else (60, 60)).save(photos / f"{name}.jpg")
    opened, read_features = [], follow.read_features
    monkeypatch.setattr(follow, "read_features", lambda folder: opened.append(folder) or read_features(folder))
    changes = follow.follow_folder(artifacts, list_images(photos), photos)
    assert (changes.gone, changes.changed, changes.new) == ([], ["c"], [])
    assert known_images(artifacts) == set("abdef")
    assert opened == [artifacts]
