"""disk reconstruct names the cause, not a guess, where the photos give no model or only a doubtful one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scene_folder import SceneFolder

from disk.cli.main import main
from disk.errors import ColmapError
from disk.geometry.pose import rotation_error
from disk.pipeline.connections import Connections, why_no_model, why_not
from disk.storage.artifacts import read_matches
from synthetic_scene import make_scene
from unusual_scenes import stamped_scenes, turning_scene


@pytest.mark.parametrize("mapper", ["incremental", "global"])
def test_a_date_stamp_joins_no_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapper: str) -> None:
    folder = SceneFolder(tmp_path, stamped_scenes(), monkeypatch)
    result = folder.run(mapper=mapper)
    scenes = [[f"s{number}v{view}.jpg" for view in range(3)] for number in range(3)]
    models = sorted(model["images"] for model in result.models)
    assert models == scenes if mapper == "incremental" else all(model in scenes for model in models)
    assert (result.connected, result.watermarks) == (9, 27)  # all pairs across scenes, none within a scene
    assert any("27 pairs with only a watermark in common" in remark for remark in result.remarks)
    with read_matches(folder.out, "inliers.h5") as inliers:
        for pair in inliers.pairs():
            assert (inliers[pair].shape[1] > 0) == (pair[0][:2] == pair[1][:2])


def test_nothing_but_a_date_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SceneFolder(tmp_path, stamped_scenes(count=3, views=1), monkeypatch)
    with pytest.raises(ColmapError, match=r"the images have only a watermark in common.*3 pairs"):
        folder.run()


@pytest.mark.parametrize("mapper", ["incremental", "global"])
def test_two_photos_make_a_model_of_two_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapper: str) -> None:
    import pycolmap

    scene = make_scene(["a", "b"], points=250)
    folder = SceneFolder(tmp_path, scene, monkeypatch)
    result = folder.run(mapper=mapper)
    assert (result.registered, result.track_length) == (2, 2)
    assert result.points >= 229  # 250 except the 20 wrong matches
    assert any("has only two photos" in remark for remark in result.remarks)
    model = pycolmap.Reconstruction(folder.out / "sparse" / "0")
    turn = {image.name[0]: image.cam_from_world().rotation.matrix() for image in model.images.values()}
    truth = scene.rotations["b"] @ scene.rotations["a"].T
    # two views leave the focal length open; guessing 768 px for 700 causes degrees of rotation error
    assert rotation_error(turn["b"] @ turn["a"].T, truth) < 6


def test_two_photos_from_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SceneFolder(tmp_path, turning_scene(["a", "b"]), monkeypatch)
    with pytest.raises(ColmapError, match="in 1 of 1 verified pairs the motion is a pure rotation"):
        folder.run()


def test_a_panorama_is_recognized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SceneFolder(tmp_path, turning_scene([f"p{number}" for number in range(6)], noise=0.5), monkeypatch)
    code = main(["reconstruct", str(folder.photos), str(folder.out)])
    captured = capsys.readouterr()
    assert "verified pairs the motion is a pure rotation" in captured.out + captured.err.splitlines()[-1]
    if code == 0:  # however the mapper interprets the noise, it is not called a good model
        assert json.loads((folder.out / "summary.json").read_text())["turning"] >= 10


def test_a_scene_with_depth_is_no_panorama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = SceneFolder(tmp_path, make_scene(["a", "b", "c"], points=100), monkeypatch).run()
    assert (result.turning, result.watermarks, result.remarks) == (0, 0, [])


def test_json_for_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    scene = make_scene(["a", "b", "c"], points=100)
    folder = SceneFolder(tmp_path, scene, monkeypatch)
    assert main(["reconstruct", str(folder.photos), str(folder.out), "--json", "--overlap", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((folder.out / "summary.json").read_text())
    assert found["unused"] == ["--overlap is for --pairs sequential or rig"]
    assert (found["failed"], found["stale"], found["rotated"], found["watermarks"]) == ({}, [], {}, 0)
    assert main(["verify", str(folder.out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["connected"] == 3
    assert main(["map", str(folder.out), str(folder.photos), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_the_table_names_cameras_weak_images_and_what_to_run_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = make_scene(["a", "b", "c", "d", "e"], points=200)
    rng = np.random.default_rng(0)
    scene.owners["e"][rng.permutation(220)[:170]] = -1  # few of its points are matched
    folder = SceneFolder(tmp_path, scene, monkeypatch)
    assert main(["reconstruct", str(folder.photos), str(folder.out), "--single-camera"]) == 0
    shown = capsys.readouterr().out
    assert "camera: SIMPLE_RADIAL, focal length 700" in shown
    assert "weakest images, by number of points (median 20" in shown
    assert ": e.jpg (" in shown
    assert f"disk view {folder.out} --save pictures" in shown


def found(**changes: object) -> Connections:
    names = ["a", "b", "c", "d"]
    values: dict[str, object] = {
        "keypoints": dict.fromkeys(names, 100),
        "pairs": [("a", "b"), ("a", "c"), ("b", "c"), ("c", "d")],
        "inliers": {("a", "b"): 893},
        "watermarks": set(),
        "turning": set(),
    }
    return Connections(**(values | changes))  # type: ignore[arg-type]


def test_why_an_image_is_not_in_the_model() -> None:
    assert why_not(found(keypoints={"d": 0}), "d", ["a"]) == "no keypoints: is it blank, out of focus or masked?"
    assert why_not(found(pairs=[("a", "b")]), "d", ["a", "b"]) == "not in any matched pair"
    assert why_not(found(), "c", ["a", "b"]) == "none of its 3 pairs is verified"
    assert why_not(found(watermarks={("a", "c")}), "c", ["a", "b"]) == "has only a watermark in common with the others"
    both = found(inliers={("a", "b"): 893, ("c", "d"): 1200})
    assert "verified only with other images outside the model, such as d (1,200" in why_not(both, "c", ["a"])
    assert why_not(found(), "b", ["a"]) == "verified with a (893 inliers), but no pose fits the points"


def test_why_there_is_no_model(tmp_path: Path) -> None:
    assert "no two images have enough matches" in why_no_model(found(inliers={}))
    disjoint = found(pairs=[("a", "b"), ("c", "d")], inliers={("a", "b"): 893})
    assert "list pairs.txt does not connect: 2 groups: a, b; c, d" in why_no_model(disjoint, Path("pairs.txt"))
    two = found(keypoints={"a": 9, "b": 9}, pairs=[("a", "b")])
    assert "a and b are verified (893 inliers)" in why_no_model(two)
    assert "a model needs a third photo" in why_no_model(two)
    assert "no third image is verified with either" in why_no_model(found())
    chain = found(inliers={("a", "b"): 20, ("b", "c"): 30})
    assert "no pair is suitable to start from, not even b and c (30 inliers)" in why_no_model(chain)
