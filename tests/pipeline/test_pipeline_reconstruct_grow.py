"""disk reconstruct and disk map on a folder with more photos than before: the existing model grows."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scene_folder import SceneFolder

from disk.cli.main import main
from disk.cli.model_table import show
from disk.colmap import mapping, models
from disk.errors import ArtifactError, ColmapError, PartialFailureError
from disk.pipeline import reconstruct as stage
from disk.pipeline.export import ExportOptions, export
from disk.pipeline.map import MapOptions, map_models
from disk.pipeline.summary import read_summary
from disk.pipeline.verify import VerifySummary, verify
from disk.storage.artifacts import read_matches
from synthetic_scene import make_scene, write_features

NAMES = ["a", "b", "c", "d", "e", "other"]
MOVED = 0.005  # relative to the box around the cameras; the keypoints are off by 0.25 pixels


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SceneFolder:
    """Two photos are held back: `a`, and `other`, which shows something else with few keypoints."""
    scene = make_scene(NAMES, points=90)
    rng = np.random.default_rng(7)
    for name, keypoints in scene.keypoints.items():
        scene.keypoints[name] = (keypoints + rng.normal(0, 0.25, keypoints.shape)).astype(np.float32)
    scene.owners["other"] = np.full(12, -1)
    scene.keypoints["other"] = rng.uniform(0, 400, (12, 2)).astype(np.float32)
    folder = SceneFolder(tmp_path, scene, monkeypatch)
    (tmp_path / "later").mkdir()
    move(folder, "a.jpg", "other.jpg", away=True)
    return folder


def move(folder: SceneFolder, *names: str, away: bool = False) -> None:
    places = folder.photos, folder.photos.parent / "later"
    for name in names:
        shutil.move(places[not away] / name, places[away])


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of pairs that each run of `disk verify` estimated."""
    counts: list[int] = []

    def counting(*arguments: Any) -> VerifySummary:
        summary = verify(*arguments)
        counts.append(summary.verified)
        return summary

    monkeypatch.setattr(stage, "verify", counting)
    return counts


def model(out: Path) -> Any:
    import pycolmap

    return pycolmap.Reconstruction(out / "sparse" / "0")


def places(out: Path) -> dict[str, tuple[int, int, np.ndarray]]:
    """Image and camera ids and the centre of each image, by name."""
    found = model(out)
    return {
        image.name: (image_id, image.camera_id, image.projection_center()) for image_id, image in found.images.items()
    }


def assert_kept(before: dict[str, tuple[int, int, np.ndarray]], after: dict[str, tuple[int, int, np.ndarray]]) -> None:
    size = np.linalg.norm(np.ptp([centre for *_, centre in before.values()], axis=0))
    for name, (image_id, camera_id, centre) in before.items():
        assert after[name][:2] == (image_id, camera_id)
        assert np.linalg.norm(after[name][2] - centre) < MOVED * size


def files_in(out: Path) -> dict[str, int]:
    suffixes = {".bin", ".db", ".h5", ".ply"}  # a rewritten file has another inode
    return {str(path): path.stat().st_ino for path in out.rglob("*") if path.suffix in suffixes}


def test_new_photos_join_and_the_record_names_those_that_did_not(
    folder: SceneFolder, verified: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    first = folder.run(single_camera=True)
    assert (first.new, first.added, first.removed, first.moved) == ([], [], {}, None)
    before, points = places(folder.out), set(model(folder.out).points3D)
    move(folder, "a.jpg", "other.jpg")
    result = folder.run(single_camera=True)
    assert (result.new, result.added, result.removed) == (["a.jpg", "other.jpg"], ["a.jpg"], {})
    assert result.moved is not None
    assert 0 < result.moved < MOVED
    assert result.unconnected == ["other.jpg"]
    assert result.reasons["other.jpg"].startswith("none of its 5 pairs is verified")
    assert_kept(before, places(folder.out))
    assert points <= set(model(folder.out).points3D)
    assert verified == [6, 4 + 5]  # all pairs, then only those with new photos
    there = files_in(folder.out)
    assert folder.run(single_camera=True) == result == read_summary(folder.out)
    assert files_in(folder.out) == there
    assert verified[2:] == [0]
    show(result, folder.out)
    printed = capsys.readouterr().out
    assert "added to the existing model, 1: a.jpg\n" in printed
    assert "new photos that could not be added, 1: other.jpg (reasons below)\n" in printed
    assert f"its cameras moved by at most {result.moved:.2%} of their bounding box" in printed


def test_deleted_photos_are_removed_and_named(
    folder: SceneFolder, verified: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder.run(single_camera=True)
    before = places(folder.out)
    move(folder, "c.jpg", away=True)
    result = folder.run(single_camera=True)
    assert result.removed == {"c.jpg": "no longer among the photos"}
    assert (result.new, result.added, result.stale) == ([], [], ["c"])
    assert verified == [6, 0]
    after = places(folder.out)
    assert after.keys() == before.keys() - {"c.jpg"}
    assert_kept({name: place for name, place in before.items() if name != "c.jpg"}, after)
    show(result, folder.out)
    assert "removed from it, 1:\n  c.jpg: no longer among the photos\n" in capsys.readouterr().out


def test_a_photo_that_can_no_longer_be_read_does_not_count_as_deleted(
    folder: SceneFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.run(single_camera=True)
    (folder.photos / "c.jpg").write_bytes(b"damaged")

    def detect(*arguments: Any) -> None:
        raise PartialFailureError("1 of 4 images could not be read")

    monkeypatch.setattr(stage, "detect", detect)
    with pytest.raises(PartialFailureError):
        folder.run(single_camera=True)
    result = read_summary(folder.out)
    assert result.removed == result.failed
    assert list(result.failed) == ["c.jpg"]


def test_remap_starts_over_and_keeps_verified_pairs(folder: SceneFolder, verified: list[int]) -> None:
    folder.run(single_camera=True)
    move(folder, "a.jpg")
    folder.run(single_camera=True)
    result = folder.run(single_camera=True, remap=True)
    assert (result.new, result.added, result.moved) == ([], [], None)
    assert result.registered == 5
    assert verified == [6, 4, 0]
    assert folder.run(single_camera=True) == result


def test_other_options_of_mapping_need_remap(folder: SceneFolder) -> None:
    folder.run(single_camera=True)
    move(folder, "a.jpg")
    before = files_in(folder.out)
    for changed in ({"mapper": "global"}, {"fix_intrinsics": True}):
        with pytest.raises(
            ArtifactError, match=r"use the same options, or map from scratch with remap=True, which keeps feat"
        ):
            folder.run(single_camera=True, **changed)
    with pytest.raises(ArtifactError, match=r"n 4096 there, 100 now.* or overwrite=True"):
        folder.run(single_camera=True, n=100, remap=True)
    assert files_in(folder.out) == before
    result = folder.run(single_camera=True, mapper="global", remap=True)
    assert (result.registered, result.moved) == (5, None)
    with pytest.raises(ArtifactError, match=r"mapper global there, incremental now"):
        folder.run(single_camera=True)
    assert folder.run(single_camera=True, mapper="global") == result


class Killed(BaseException):
    """Like SIGKILL: no error handling catches it."""


@pytest.mark.parametrize("victim", ["write_ply", "note_made_from"])
def test_a_run_that_is_killed_loses_neither_the_model_nor_what_joined(
    folder: SceneFolder, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    """note_made_from writes the record in the scratch folder before the model is replaced; write_ply comes after."""
    folder.run(single_camera=True)
    before = places(folder.out)
    move(folder, "a.jpg")

    def killed(*arguments: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(models, victim, killed)
        with pytest.raises(Killed):
            folder.run(single_camera=True)
    assert before.keys() <= places(folder.out).keys()
    there = (folder.out / "sparse" / "0" / "points3D.bin").read_bytes()
    result = folder.run(single_camera=True)
    assert (result.registered, result.new, result.added) == (5, ["a.jpg"], ["a.jpg"])
    assert result.moved is not None
    assert_kept(before, places(folder.out))
    if victim == "write_ply":  # it was already mapped
        assert (folder.out / "sparse" / "0" / "points3D.bin").read_bytes() == there


def test_where_hardly_a_photo_is_left_mapping_starts_over(
    folder: SceneFolder, caplog: pytest.LogCaptureFixture
) -> None:
    move(folder, "e.jpg", away=True)
    assert folder.run().registered == 3
    move(folder, "b.jpg", "c.jpg", away=True)
    move(folder, "a.jpg", "e.jpg")
    result = folder.run()
    assert (result.registered, result.moved) == (3, None)
    assert "hardly any photo of the model" in caplog.text


def test_a_poor_model_is_mapped_from_scratch_instead_of_grown(
    folder: SceneFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = mapping.incremental_options

    def of_two_photos(*arguments: Any) -> Any:
        options = real(*arguments)
        options.image_names = ["b.jpg", "c.jpg"]
        return options

    with monkeypatch.context() as patch:
        patch.setattr(mapping, "incremental_options", of_two_photos)
        assert folder.run(single_camera=True).registered == 2
    move(folder, "a.jpg")
    result = folder.run(single_camera=True)
    assert (result.registered, result.moved, result.added) == (5, None, [])
    assert f"{folder.out / 'sparse'}: the model has only two photos; mapping from scratch" in caplog.text


def test_pairs_by_similarity_follow_the_folder(folder: SceneFolder, tmp_path: Path) -> None:
    choice = {"pairs": "retrieval", "top_k": 1, "single_camera": True}
    with contextlib.suppress(ColmapError):  # whether that makes a model does not matter here
        folder.run(**choice)
    move(folder, "a.jpg", "other.jpg")
    found = []
    for _ in range(2):
        with contextlib.suppress(ColmapError):
            folder.run(**choice)
        with read_matches(folder.out) as matches, read_matches(folder.out, "inliers.h5") as inliers:
            assert matches.pairs() == inliers.pairs()
            found.append(matches.pairs())
        folder.out = tmp_path / "at once"
    assert found[0] == found[1]


def test_stage_by_stage(folder: SceneFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifacts, photos = tmp_path / "out" / "artifacts", str(folder.photos)

    def stages(names: list[str]) -> None:
        write_features(folder.scene, artifacts, names, ".jpg")
        assert main(["match", str(artifacts), "--device", "cpu"]) == 0
        export(artifacts, photos, ExportOptions(single_camera=True, overwrite=True))
        verify(artifacts)

    stages(["b", "c", "d", "e"])
    assert main(["map", str(artifacts), photos]) == 0
    before = places(tmp_path / "out")
    move(folder, "a.jpg")
    stages(["a"])
    capsys.readouterr()
    for flags in (["--mapper", "global"], ["--seed", "1"], ["--fix-intrinsics"]):
        assert main(["map", str(artifacts), photos, *flags]) == 2
        error = capsys.readouterr().err
        assert "or map from scratch with --remap, which keeps features and matches" in error
        assert error.count("\n") == 1
    assert main(["map", str(artifacts), photos]) == 0
    assert "added to the existing model, 1: a.jpg" in capsys.readouterr().out
    assert_kept(before, places(tmp_path / "out"))
    assert map_models(artifacts, photos, MapOptions(remap=True, seed=1)).moved is None
