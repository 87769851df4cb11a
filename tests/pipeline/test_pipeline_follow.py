"""Changes of the folder of photos, also for artifacts of earlier versions, which record only the sizes of photos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_features import make_artifacts
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

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
        ({"b": b"damaged"}, ["1 new photo: b"]),
        ({}, []),
        ({"c": b"damaged", "d": b"damaged"}, ["2 new photos: c, d"]),
        ({"b": b"damaged in another way"}, ["1 new photo: b"]),
    ):
        for name, content in added.items():
            (photos / f"{name}.jpg").write_bytes(content)
        caplog.clear()
        changes = follow.follow_folder(artifacts, list_images(photos), photos, keep_gone=True)
        assert [record.message for record in caplog.records if record.module == "follow"] == said
        assert changes.new == sorted(path.stem for path in photos.iterdir() if path.stem != "a")


@pytest.mark.parametrize(
    ("trouble", "lasting"),
    [
        (PermissionError(13, "Permission denied"), False),
        (OSError(5, "Input/output error"), False),
        (FileNotFoundError(2, "No such file"), False),
        (MemoryError(), False),
        (OSError("image file is truncated"), True),
        (SyntaxError("broken PNG file"), True),
    ],
)
def test_only_damage_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: BaseException, lasting: bool
) -> None:
    """Permissions, disks and memory may be in order on the next run, though the file stays the same."""
    artifacts, photos = make_artifacts(tmp_path / "artifacts", {"a": 5}), tmp_path / "photos"
    photos.mkdir()
    for name in ("a", "b"):
        Image.new("L", (60, 60)).save(photos / f"{name}.jpg")
    files = list_images(photos)
    changes = follow.follow_folder(artifacts, files, photos)
    with monkeypatch.context() as patch:
        patch.setattr(JpegImageFile, "load" if isinstance(trouble, MemoryError) else "__init__", raising(trouble))
        reasons = follow.why_without_features(artifacts, files, changes)
    assert list(reasons) == ["b.jpg"]
    assert "b.jpg" in reasons["b.jpg"]
    assert list(follow.follow_folder(artifacts, files, photos).unreadable) == (["b"] if lasting else [])


def raising(error: BaseException) -> Callable[..., None]:
    def call(*args: object, **options: object) -> None:
        raise error

    return call
