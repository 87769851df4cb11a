"""Changes of the folder of photos, also for artifacts of earlier versions, which record only the sizes of photos."""

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


def test_new_photos_are_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also if no features are found in them; another file under the same name is new again."""
    artifacts, photos = make_artifacts(tmp_path / "artifacts", {"a": 5}), tmp_path / "photos"
    photos.mkdir()
    Image.new("L", (60, 60)).save(photos / "a.jpg")
    caplog.set_level("INFO", "disk")
    for added, said in (
        ({"b": b"damaged"}, ["1 photo is new: b"]),
        ({}, []),
        ({"c": b"damaged", "d": b"damaged"}, ["2 photos are new: c, d"]),
        ({"b": b"damaged in another way"}, ["1 photo is new: b"]),
    ):
        for name, content in added.items():
            (photos / f"{name}.jpg").write_bytes(content)
        caplog.clear()
        changes = follow.follow_folder(artifacts, list_images(photos), photos, keep_gone=True)
        assert [record.message for record in caplog.records if record.module == "follow"] == said
        assert changes.new == sorted(path.stem for path in photos.iterdir() if path.stem != "a")
