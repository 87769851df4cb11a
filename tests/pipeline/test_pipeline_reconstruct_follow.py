"""disk reconstruct on a folder or options that change: the result equals that of a fresh run."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scene_folder import SceneFolder

from disk.cli.main import main
from disk.errors import ArtifactError, ColmapError, DiskError, PartialFailureError
from disk.images.listing import list_images, unused_files
from disk.pipeline import reconstruct as stage
from disk.storage.artifacts import read_features, read_matches
from disk.storage.forget import known_images
from synthetic_scene import make_scene, write_features

NAMES = ["a", "b", "c", "d", "e"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SceneFolder:
    return SceneFolder(tmp_path, make_scene(NAMES, points=90), monkeypatch)


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def cameras(out: Path) -> set[str]:
    import pycolmap

    return {camera.model_name for camera in pycolmap.Reconstruction(out / "sparse" / "0").cameras.values()}


def test_a_deleted_photo_is_removed_and_a_new_one_joins(folder: SceneFolder, tmp_path: Path) -> None:
    assert folder.run().models[0]["images"] == [f"{name}.jpg" for name in NAMES]
    shutil.move(folder.photos / "b.jpg", tmp_path)
    result = folder.run()
    assert (result.images, result.models[0]["images"]) == (4, ["a.jpg", "c.jpg", "d.jpg", "e.jpg"])
    assert result.stale == ["b"]
    with read_features(folder.out) as features, read_matches(folder.out) as matches:
        assert features.names == ["a", "c", "d", "e"]
        assert len(matches.pairs()) == 6
    shutil.move(tmp_path / "b.jpg", folder.photos)
    result = folder.run()
    assert result.models[0]["images"] == [f"{name}.jpg" for name in NAMES]
    assert folder.detected == [NAMES, [], ["b"]]


def test_a_changed_photo_is_detected_again(folder: SceneFolder) -> None:
    folder.run()
    path = folder.photos / "c.jpg"
    os.utime(path, (1, 1))  # the same content with another time
    assert folder.run().stale == []
    Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    assert folder.run().stale == ["c"]
    assert folder.detected == [NAMES, [], ["c"]]


@pytest.mark.parametrize("rename", ["names", "contents"])
def test_the_wrong_folder_is_refused_before_anything_changes(folder: SceneFolder, tmp_path: Path, rename: str) -> None:
    folder.run()
    other = tmp_path / "other"
    other.mkdir()
    for name in NAMES:
        Image.new("RGB", (640, 480), "green").save(other / (f"x{name}.jpg" if rename == "names" else f"{name}.jpg"))
    before = files_in(folder.out)
    with pytest.raises(ArtifactError, match="has none of the 5 photos"):
        stage.reconstruct(other, folder.out)
    assert files_in(folder.out) == before
    assert len(folder.run().models[0]["images"]) == 5


def test_a_typo_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reconstruct", str(tmp_path / "phtos"), str(tmp_path / "out")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


class Killed(BaseException):
    """Like SIGKILL: no error handling catches it."""


@pytest.mark.parametrize("victim", ["take_up", "follow_folder", "detect", "match", "export", "verify", "map_models"])
@pytest.mark.parametrize("after", [False, True])
def test_killed_while_it_overwrites_with_other_cameras(
    folder: SceneFolder, monkeypatch: pytest.MonkeyPatch, victim: str, after: bool
) -> None:
    """After a kill at any moment, the next run, without --overwrite, uses the new cameras."""
    folder.run()
    real = getattr(stage, victim)

    def killed(*arguments: Any, **options: Any) -> None:
        if after:
            real(*arguments, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(stage, victim, killed)
        with pytest.raises(Killed):
            folder.run(overwrite=True, camera_model="pinhole", single_camera=True)
    if victim == "take_up" and not after:
        # nothing has changed yet: the old options belong to the old model
        with pytest.raises(ArtifactError, match="camera_model simple-radial there, pinhole now"):
            folder.run(camera_model="pinhole", single_camera=True)
        return
    with pytest.raises(ArtifactError, match="camera_model pinhole there, simple-radial now"):
        folder.run()
    result = folder.run(camera_model="pinhole", single_camera=True)
    assert cameras(folder.out) == {"PINHOLE"}
    assert len(result.models[0]["cameras"]) == 1
    assert result.registered == 5


def test_killed_while_it_clears(folder: SceneFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a part of the old run is deleted; the rest must not pass for results of the new run."""
    folder.run()
    from disk.pipeline import take_up

    with monkeypatch.context() as patch:
        patch.setattr(take_up, "_clear", lambda out: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            folder.run(overwrite=True, n=100)
    assert known_images(folder.out / "artifacts") == set(NAMES)
    folder.run(n=100)
    assert folder.detected == [NAMES, NAMES]


def test_other_cameras_are_distinguished_from_those_in_the_database(folder: SceneFolder) -> None:
    """As after a kill by an earlier version, which recorded the new options and kept the old database."""
    folder.run()
    path = folder.out / "options.json"
    path.write_text(path.read_text().replace('"simple-radial"', '"pinhole"'))
    with pytest.raises(ColmapError, match=r"SIMPLE_RADIAL there, PINHOLE now\); map from scratch with remap=True"):
        folder.run(camera_model="pinhole")
    folder.run(camera_model="pinhole", remap=True)
    assert cameras(folder.out) == {"PINHOLE"}


def test_pairs_follow_the_list(folder: SceneFolder, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("a b\nb c\nc d\nd e\na c\n")
    folder.run(pairs="list", pairs_file=pairs)
    pairs.write_text("a b\nb c\nc d\nb d\n")
    result = folder.run(pairs="list", pairs_file=pairs)
    with read_matches(folder.out) as matches, read_matches(folder.out, "inliers.h5") as inliers:
        assert matches.pairs() == inliers.pairs() == [("a", "b"), ("b", "c"), ("b", "d"), ("c", "d")]
    assert result.reasons["e.jpg"] == "not in any matched pair"


def test_a_list_that_does_not_connect(folder: SceneFolder, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("a b\nc d.jpg\n")
    with pytest.raises(ColmapError, match=r"does not connect: none of its 2 pairs share an image"):
        folder.run(pairs="list", pairs_file=pairs)
    pairs.write_text("a bb\n")
    with pytest.raises(DiskError, match="line 1"):
        folder.run(pairs="list", pairs_file=pairs)
    assert not folder.detected
    assert not folder.out.exists()


@pytest.mark.parametrize("per", [{"single_camera": True}, {"camera_per": "folder"}])
def test_a_portrait_among_landscapes_is_refused_before_the_work(folder: SceneFolder, per: dict[str, Any]) -> None:
    Image.new("RGB", (480, 640)).save(folder.photos / "e.jpg")
    with pytest.raises(ColmapError, match=r"a\.jpg is 640 x 480 and e\.jpg 480 x 640"):
        folder.run(**per)
    assert not folder.detected
    assert not folder.out.exists()


def test_missing_disk_space_is_reported_before_the_work(folder: SceneFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(folder.photos)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ArtifactError, match=r"the features of 5 images need about .* GB"):
        folder.run()
    assert not folder.detected


@pytest.mark.parametrize("name", ["sparse", "database.db", "points.ply"])
def test_what_another_program_made_is_not_replaced(folder: SceneFolder, name: str) -> None:
    path = folder.out / name / "mine" if name == "sparse" else folder.out / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(ArtifactError, match="was not made by `disk reconstruct`"):
        folder.run()
    assert path.read_text() == "mine"
    assert not folder.detected


def test_an_output_among_the_photos(folder: SceneFolder, caplog: pytest.LogCaptureFixture) -> None:
    folder.out = folder.photos / "model"
    assert folder.run().registered == 5
    view = folder.out / "artifacts" / "view"
    view.mkdir()
    Image.new("RGB", (640, 480)).save(view / "a--b.jpg")
    caplog.clear()
    again = folder.run()
    assert (again.images, again.registered, again.unused) == (5, 5, [])
    assert folder.detected[1:] == [[]]
    assert unused_files(folder.photos, list_images(folder.photos)) == ""
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_output_that_would_contain_the_photos(folder: SceneFolder) -> None:
    folder.out = folder.photos
    with pytest.raises(ArtifactError, match=r"contains 5 of the photos, such as "):
        folder.run()


def test_flags_without_effect_are_named(folder: SceneFolder, caplog: pytest.LogCaptureFixture) -> None:
    result = folder.run(overlap=3, top_k=5)
    assert result.unused == ["overlap is for pairs='sequential' or rig", "top_k is for pairs='retrieval' or spatial"]
    assert "not used: overlap is for pairs='sequential'" in caplog.text


def test_artifacts_of_the_stages_are_continued(folder: SceneFolder) -> None:
    """`disk detect`, `match` and so on into the same folders, then `disk reconstruct`."""
    write_features(folder.scene, folder.out / "artifacts")
    assert folder.run().registered == 5
    assert folder.detected == [[]]


def test_unreadable_photos_are_in_the_summary(folder: SceneFolder) -> None:
    (folder.photos / "f.jpg").write_bytes(b"\xff\xd8\xff")
    real = folder.detect

    def detect(artifacts: Path, images: Path, options: Any, only: set[str]) -> None:
        folder.scene = replace(folder.scene, names=NAMES)
        real(artifacts, images, options, only)

    folder.detect = detect  # type: ignore[method-assign]
    result = folder.run()
    assert list(result.failed) == ["f.jpg"]
    assert "f.jpg" in result.failed["f.jpg"]


@pytest.mark.parametrize("kept", [2, 0.5], ids=["no header", "half of it"])
def test_a_photo_that_cannot_be_decoded_is_tried_again_when_its_file_changes(
    folder: SceneFolder, caplog: pytest.LogCaptureFixture, kept: float
) -> None:
    path, whole = folder.photos / "e.jpg", (folder.photos / "e.jpg").read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else int(kept)])
    real = folder.detect

    def detect(artifacts: Path, images: Path, options: Any, only: set[str]) -> None:
        damaged = path.stat().st_size < len(whole)
        real(artifacts, images, options, only - {"e"} if damaged else only)
        if damaged and "e" in only:
            folder.detected[-1].append("e")
            raise PartialFailureError("1 of 5 images could not be read: e.jpg; the rest is done")

    caplog.set_level("INFO", "disk")
    message = "1 of 5 images could not be read: e.jpg; the rest is done"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "detect", detect)
        with pytest.raises(PartialFailureError, match=message) as failure:
            folder.run()
        there, failed = files_in(folder.out / "sparse"), stage.read_summary(folder.out).failed
        assert failure.value.result == stage.read_summary(folder.out)
        assert list(failed) == ["e.jpg"]
        assert "e.jpg" in failed["e.jpg"]  # the reason names the file
        caplog.clear()
        with pytest.raises(PartialFailureError, match=message):
            folder.run()
        assert files_in(folder.out / "sparse") == there  # not grown
        assert folder.run(keep_going=True).failed == failed
        said = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert said == 2 * ["skipping 1 photo that could not be decoded before: e"]
        path.write_bytes(whole)
        caplog.clear()
        assert folder.run().registered == 5
        assert folder.detected == [[*NAMES], [], [], ["e"]]
        assert "1 new photo: e" in caplog.text


def test_one_photo_is_refused_before_the_work(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    with pytest.raises(ColmapError, match=r"only one image in .* can be read; a model needs at least two"):
        stage.reconstruct(tmp_path / "a.png", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_spelling_of_a_camera_is_no_change(folder: SceneFolder) -> None:
    folder.run(camera_model="pinhole")
    folder.run(camera_model="PINHOLE")
    folder.run(camera_model="Pinhole")
    assert cameras(folder.out) == {"PINHOLE"}
