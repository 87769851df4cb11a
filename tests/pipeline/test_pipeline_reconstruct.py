"""disk reconstruct from detected features on: a scene with known truth replaces the detector."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from disk.cli.main import main
from disk.errors import ArtifactError, ColmapError, DiskError, PartialFailureError
from disk.geometry.pose import align_similarity, rotation_error
from disk.matching.nearest import DEFAULT_RATIO
from disk.pipeline import reconstruct as stage
from disk.pipeline.match_options import ratio_of
from disk.pipeline.reconstruct import Reconstruction, ReconstructOptions, read_summary, reconstruct
from disk.storage.forget import forget_images
from disk.storage.locks import folder_lock
from synthetic_scene import Scene, make_scene, write_features, write_photos

NAMES = ["a", "b", "c", "sub/d"]
Detector = Callable[[Scene], list[Any]]


@pytest.fixture
def detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Detector:
    """Makes `detect` find a scene in tmp_path/photos; returns the options of each call."""

    def install(scene: Scene) -> list[Any]:
        calls: list[Any] = []
        write_photos(scene, tmp_path / "photos")

        def found(artifacts: Path, images: Path, options: Any, only: set[str]) -> None:
            calls.append(options)
            if options.overwrite:
                for path in artifacts.glob("*.h5"):
                    path.unlink()
            write_features(scene, artifacts)

        monkeypatch.setattr(stage, "detect", found)
        # it would run the network
        monkeypatch.setattr(stage, "turn_unconnected", lambda *arguments, **options: [])
        return calls

    return install


def run(tmp_path: Path, **options: Any) -> Reconstruction:
    return reconstruct(tmp_path / "photos", tmp_path / "out", ReconstructOptions(**options))


def unrelated(scene: Scene, name: str, count: int = 12) -> Scene:
    """The scene, with one image of something else that has few features, many of which may agree by chance."""
    rng = np.random.default_rng(7)
    scene.owners[name] = np.full(count, -1)
    scene.keypoints[name] = rng.uniform(0, 400, (count, 2)).astype(np.float32)
    return scene


def test_rotated_images_are_matched_again_and_named(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images get other keypoints after rotation, the second since the first connects by then: they are registered,
    and the summary names them. A later run, as after a kill, finds no more rotated images.
    """
    scene = make_scene(NAMES, points=200)
    detector(scene)
    waiting = [NAMES[1], NAMES[2]]
    turned: list[str] = []

    def turn(artifacts: Path, *arguments: Any, **options: Any) -> list[str]:
        if not waiting:
            return []
        turned.append(waiting.pop(0))
        with folder_lock(artifacts):
            forget_images(artifacts, turned[-1:])
        write_features(scene, artifacts, turned[-1:])
        with h5py.File(artifacts / "keypoints.h5", "r+") as file:
            file[turned[-1]].attrs["orientation"] = 8
        return turned[-1:]

    with monkeypatch.context() as patch:
        patch.setattr(stage, "turn_unconnected", turn)
        assert run(tmp_path, single_camera=True, rotations="off").rotated == {}
        assert not turned
        result = run(tmp_path, single_camera=True, overwrite=True)
    assert result.registered == 4
    assert result.rotated == {f"{NAMES[1]}.jpg": 90, f"{NAMES[2]}.jpg": 90}


@pytest.mark.parametrize("mapper", ["incremental", "global"])
def test_from_photos_to_the_true_cameras(detector: Detector, tmp_path: Path, mapper: str) -> None:
    import pycolmap

    scene = make_scene(NAMES, points=200)
    calls = detector(scene)
    result = run(tmp_path, mapper=mapper, single_camera=True, n=1234)
    assert calls[0].n == 1234
    assert (result.images, result.registered, result.unconnected) == (4, 4, [])
    assert result.points >= 199
    assert result.track_length > 3.9
    assert result.reprojection_error < 1e-3
    assert list(result.seconds) == ["detect", "match", "export", "verify", "rotations", "map"]
    assert result == read_summary(tmp_path / "out")
    found = pycolmap.Reconstruction(tmp_path / "out" / "sparse" / "0")
    poses = {image.name.removesuffix(".jpg"): image.cam_from_world() for image in found.images.values()}
    centres = np.stack([-poses[name].rotation.matrix().T @ poses[name].translation for name in NAMES])
    scale, R, t = align_similarity(centres, scene.centres(NAMES))
    assert np.abs(scale * centres @ R.T + t - scene.centres(NAMES)).max() < 1e-3
    for name in NAMES:
        assert rotation_error(poses[name].rotation.matrix() @ R.T, scene.rotations[name]) < 0.01
    assert (tmp_path / "out" / "points.ply").read_bytes().startswith(b"ply")


def test_a_second_run_does_nothing(detector: Detector, tmp_path: Path) -> None:
    detector(make_scene(NAMES, points=100))
    first = run(tmp_path)
    # a rewritten file has another inode
    files = ("database.db", "points.ply", "summary.json", "sparse/0/images.bin", "artifacts/matches.h5")
    before = [(tmp_path / "out" / file).stat().st_ino for file in files]
    assert run(tmp_path, device="cpu", keep_going=True) == first  # these options do not change the model
    assert [(tmp_path / "out" / file).stat().st_ino for file in files] == before
    assert run(tmp_path, overwrite=True).points == first.points


@pytest.mark.parametrize("lost", ["summary.json", "sparse/0/points3D.bin", "database.db", "artifacts/inliers.h5"])
def test_what_is_missing_is_made_again(detector: Detector, tmp_path: Path, lost: str) -> None:
    """As after a kill between two stages."""
    detector(make_scene(NAMES, points=100))
    first = run(tmp_path)
    model = (tmp_path / "out" / "sparse" / "0" / "points3D.bin").read_bytes()
    (tmp_path / "out" / lost).unlink()
    if lost.startswith("sparse"):
        (tmp_path / "out" / "summary.json").unlink()  # it is written last
    again = run(tmp_path)
    assert (again.models, again.images) == (first.models, first.images)
    assert (tmp_path / "out" / "sparse" / "0" / "points3D.bin").read_bytes() == model


def test_new_photos_join_the_model(detector: Detector, tmp_path: Path) -> None:
    scene = make_scene(NAMES, points=100)
    part = Scene(NAMES[:3], *(getattr(scene, name) for name in list(scene.__dataclass_fields__)[1:]))
    detector(part)
    (tmp_path / "photos" / "sub").mkdir()
    assert run(tmp_path).registered == 3
    detector(scene)
    result = run(tmp_path)
    assert (result.images, result.registered) == (4, 4)


def test_other_options_are_refused(detector: Detector, tmp_path: Path) -> None:
    detector(make_scene(NAMES, points=100))
    run(tmp_path)
    with pytest.raises(ArtifactError, match=r"camera_model simple-radial there, pinhole now; mapper"):
        run(tmp_path, camera_model="pinhole", mapper="global")
    assert run(tmp_path).registered == 4
    assert run(tmp_path, camera_model="pinhole", overwrite=True).registered == 4
    (tmp_path / "out" / "options.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"options\.json is damaged"):
        run(tmp_path)


@pytest.mark.parametrize(
    "mistake",
    [
        {"rt": 5.0}, {"n": 0}, {"min_inliers": 0}, {"seed": -1}, {"top_k": 0}, {"model_path": "nowhere.pth"},
        {"mask_dir": Path("nowhere")}, {"pairs": "list", "pairs_file": Path("nowhere.txt")}, {"camera_model": "cubist"},
        {"single_camera": True, "camera_per": "folder"},
    ],
)  # fmt: skip
def test_an_invalid_option_is_refused_before_it_is_recorded(
    detector: Detector, tmp_path: Path, mistake: dict[str, Any]
) -> None:
    calls = detector(make_scene(NAMES, points=100))
    with pytest.raises(DiskError):
        run(tmp_path, **mistake)
    assert not calls
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("count", [0, 12])
def test_images_that_do_not_connect_are_named(
    detector: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    """One image of something else, and a blank one without features."""
    detector(unrelated(make_scene(NAMES, points=100), "b", count))
    photos, out = str(tmp_path / "photos"), str(tmp_path / "out")
    assert main(["reconstruct", photos, out, "--single-camera"]) == 0
    shown = capsys.readouterr().out
    assert "3 of 4" in shown
    assert "images not connected to sparse/0, 1: b.jpg" in shown
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["unconnected"] == ["b.jpg"]
    assert summary["models"][0]["images"] == ["a.jpg", "c.jpg", "sub/d.jpg"]


def test_nothing_connects(detector: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = make_scene(NAMES, points=60)
    for name in NAMES:
        unrelated(scene, name)
    detector(scene)
    photos, out = str(tmp_path / "photos"), str(tmp_path / "out")
    for _ in range(2):  # the second time from existing artifacts
        assert main(["reconstruct", photos, out]) == 2
        error = capsys.readouterr().err.splitlines()
        assert "no two images have enough matches" in error[-1]
        assert not (tmp_path / "out" / "summary.json").exists()
        assert not (tmp_path / "out" / "sparse").exists()


def test_a_list_of_pairs_without_overlap(detector: Detector, tmp_path: Path) -> None:
    detector(unrelated(make_scene(NAMES, points=100), "a"))
    (tmp_path / "pairs.txt").write_text("a.jpg b.jpg\na.jpg c.jpg\n")
    with pytest.raises(ColmapError, match="no two images have enough matches"):
        run(tmp_path, pairs="list", pairs_file=tmp_path / "pairs.txt")


def test_many_images_are_matched_by_similarity(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    detector(make_scene(NAMES, points=100))
    monkeypatch.setattr("disk.pipeline.reconstruct_options.ALL_PAIRS_UP_TO", 3)
    caplog.set_level("INFO", "disk")
    asked: list[str] = []
    match = stage.match
    monkeypatch.setattr(
        stage, "match", lambda path, options, **others: (asked.append(options.pairs), match(path, options))
    )
    assert run(tmp_path).registered == 4
    assert asked == ["retrieval"]
    assert "4 images: matching each with the 20 most similar ones" in caplog.text


def test_an_unreadable_image_is_reported_after_the_rest_is_done(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    detector(make_scene(NAMES, points=100))
    found = stage.detect

    def partly(artifacts: Path, images: Path, options: Any, only: set[str]) -> None:
        found(artifacts, images, options, only)
        raise PartialFailureError("1 of 5 images could not be read: broken.jpg; the rest is done")

    monkeypatch.setattr(stage, "detect", partly)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    assert main(["reconstruct", str(tmp_path / "photos"), str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert "4 of 4" in captured.out
    assert captured.err.splitlines()[-1] == (
        "disk reconstruct: 1 of 5 images could not be read: broken.jpg; the rest is done"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, DEFAULT_RATIO), ({"rt": None}, None), ({"rt": 0.8}, 0.8), ({"matcher": "lightglue"}, None)],
)
def test_the_default_ratio_test_is_only_for_nearest_neighbours(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], expected: float | None
) -> None:
    detector(make_scene(NAMES[:2], points=50))
    asked: list[float | None] = []

    def stop(artifacts: Path, matching: Any, **others: Any) -> None:
        asked.append(ratio_of(matching))
        raise ArtifactError("enough")

    monkeypatch.setattr(stage, "match", stop)
    with pytest.raises(ArtifactError, match="enough"):
        run(tmp_path, **options)
    assert asked == [expected]


def test_ratio_test_with_lightglue_is_refused(detector: Detector, tmp_path: Path) -> None:
    detector(make_scene(NAMES[:2], points=50))
    with pytest.raises(DiskError, match="leave it out with matcher='lightglue'"):
        run(tmp_path, matcher="lightglue", rt=0.8)
