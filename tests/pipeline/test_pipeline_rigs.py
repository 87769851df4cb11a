"""disk reconstruct --rig on two cameras that fire together, with known truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scene_folder import SceneFolder

from disk.cli.main import main
from disk.colmap.rigs import Mounted, write_rig
from disk.errors import ArtifactError, ColmapError, DiskError, PairsError, PartialFailureError
from disk.geometry.pose import align_similarity, rotation_error
from disk.pipeline.map import MapOptions, map_models
from disk.pipeline.undistort import undistort
from disk.storage.artifacts import read_matches
from synthetic_scene import make_rig_scene

COS, SIN = np.cos(np.radians(5)), np.sin(np.radians(5))
RIGHT_FROM_LEFT = np.array([[COS, 0, SIN], [0, 1, 0], [-SIN, 0, COS]]), np.array([-0.4, 0.02, 0.05])
BASELINE = float(np.linalg.norm(RIGHT_FROM_LEFT[1]))
MISSING = ("right/0001", "left/0004")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SceneFolder:
    return SceneFolder(tmp_path, make_rig_scene(6, RIGHT_FROM_LEFT, MISSING), monkeypatch)


def poses(out: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    import pycolmap

    model = pycolmap.Reconstruction(out / "sparse" / "0")
    found = {image.name.removesuffix(".jpg"): image.cam_from_world() for image in model.images.values()}
    return {name: (pose.rotation.matrix(), pose.translation) for name, pose in found.items()}


def right_from_left(out: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pose of the right camera relative to the left, for each instant with an image from both."""
    found = poses(out)
    relative = []
    for name in sorted(found):
        if name.startswith("left/") and name.replace("left", "right") in found:
            (R0, t0), (R1, t1) = found[name], found[name.replace("left", "right")]
            relative.append((R1 @ R0.T, t1 - R1 @ R0.T @ t0))
    return relative


@pytest.mark.parametrize("mapper", ["incremental", "global"])
def test_the_mounting_of_the_cameras_is_found(folder, mapper):
    import pycolmap

    result = folder.run(rig=True, overlap=2, mapper=mapper)
    assert result.registered == 10
    assert [(camera["first"], camera["images"]) for camera in result.models[0]["cameras"]] == [
        ("left/0000.jpg", 5), ("right/0000.jpg", 5),
    ]  # fmt: skip
    model = pycolmap.Reconstruction(folder.out / "sparse" / "0")
    assert (model.num_rigs(), model.num_frames(), model.num_reg_frames()) == (1, 6, 6)
    # as in the scene, up to the model's scale, and the same at every instant
    names = sorted(poses(folder.out))
    centres = np.stack([-R.T @ t for R, t in (poses(folder.out)[name] for name in names)])
    scale, _, _ = align_similarity(centres, folder.scene.centres(names))
    found = right_from_left(folder.out)
    assert len(found) == 4
    for R, t in found:
        assert rotation_error(R, RIGHT_FROM_LEFT[0]) < 0.01
        assert np.abs(scale * t - RIGHT_FROM_LEFT[1]).max() < 1e-3
        assert np.allclose(t, found[0][1], atol=1e-9)
    written = json.loads((folder.out / "rig_config.json").read_text())[0]["cameras"][1]
    assert written["image_prefix"] == "right/"
    assert np.allclose(written["cam_from_rig_translation"], found[0][1])
    assert result.models[0]["rig"]["right"]["translation"] == pytest.approx(found[0][1])


def test_pairs_are_along_and_across_and_each_folder_has_a_camera(folder):
    folder.run(pairs="rig", overlap=1)
    with read_matches(folder.out / "artifacts") as matches:
        found = matches.pairs()
    assert len(found) == 2 * 4 + 4
    assert ("left/0003", "left/0005") in found
    assert ("left/0000", "right/0000") in found
    assert ("left/0000", "right/0001") not in found
    with pytest.raises(ColmapError, match="needs exactly one camera per folder"):
        map_models(folder.out, folder.photos, MapOptions(rig=True, remap=True))


def test_a_known_rig_gives_the_model_its_scale(folder, tmp_path):
    half_turn = np.radians(5) / 2
    right = {
        "image_prefix": "right/",
        "cam_from_rig_rotation": [np.cos(half_turn), 0, np.sin(half_turn), 0],
        "cam_from_rig_translation": RIGHT_FROM_LEFT[1].tolist(),
    }
    config = tmp_path / "rig.json"
    config.write_text(json.dumps([{"cameras": [{"image_prefix": "left/", "ref_sensor": True}, right]}]))
    result = folder.run(rig=True, rig_config=config, overlap=2)
    assert result.registered == 10
    for R, t in right_from_left(folder.out):
        assert rotation_error(R, RIGHT_FROM_LEFT[0]) < 1e-4
        assert np.allclose(t, RIGHT_FROM_LEFT[1], atol=1e-9)
    names = sorted(poses(folder.out))
    centres = np.stack([-R.T @ t for R, t in (poses(folder.out)[name] for name in names)])
    scale, _, _ = align_similarity(centres, folder.scene.centres(names))
    assert scale == pytest.approx(1, abs=2e-3)
    assert not (folder.out / "rig_config.json").exists()
    # repeating it changes nothing; another baseline gives another model from the same matches
    assert folder.run(rig=True, rig_config=config, overlap=2) == result
    right["cam_from_rig_translation"] = (2 * RIGHT_FROM_LEFT[1]).tolist()
    config.write_text(json.dumps([{"cameras": [{"image_prefix": "left/", "ref_sensor": True}, right]}]))
    folder.run(rig=True, rig_config=config, overlap=2)
    assert np.linalg.norm(right_from_left(folder.out)[0][1]) == pytest.approx(2 * BASELINE)


def test_cameras_that_are_not_rigid_are_mapped_without_a_rig(tmp_path, monkeypatch, caplog):
    """The right camera moves between the shots: the names suggest a rig, but the images contradict it."""
    scene = make_rig_scene(4, RIGHT_FROM_LEFT)
    left, right = ([name for name in scene.names if name.startswith(camera)] for camera in ("left", "right"))
    shuffled = dict(zip(right, right[2:] + right[:2], strict=True))
    keypoints = {name: scene.keypoints[shuffled.get(name, name)] for name in [*left, *right]}
    owners = {name: scene.owners[shuffled.get(name, name)] for name in [*left, *right]}
    folder = SceneFolder(tmp_path, replace(scene, keypoints=keypoints, owners=owners), monkeypatch)
    result = folder.run(rig=True, overlap=3)
    assert result.registered == 8
    assert "the rig is not used" in caplog.text
    assert result.models[0]["rig"] == {}
    assert any("the rig was not used" in remark for remark in result.remarks)
    assert not (folder.out / "rig_config.json").exists()


def test_an_image_that_cannot_be_undistorted_does_not_exclude_others_of_its_instant(folder, tmp_path):
    folder.run(rig=True, overlap=2)
    before = poses(folder.out)
    (folder.photos / "left" / "0002.jpg").unlink()
    with pytest.raises(PartialFailureError, match="1 of 10 images could not be undistorted"):
        undistort(folder.out, tmp_path / "splat")
    after = poses(tmp_path / "splat")
    assert after.keys() == before.keys() - {"left/0002"}
    assert after.keys() == {
        path.relative_to(tmp_path / "splat" / "images").with_suffix("").as_posix()
        for path in (tmp_path / "splat" / "images").rglob("*.jpg")
    }
    for name, (R, t) in after.items():
        np.testing.assert_allclose(R, before[name][0], atol=1e-12)
        np.testing.assert_allclose(t, before[name][1], atol=1e-12)


def test_mapping_alone_uses_the_rig_too(folder, capsys):
    photos, out = str(folder.photos), str(folder.out)
    folder.run(pairs="rig", camera_per="folder", overlap=2)
    assert right_from_left(folder.out)
    assert main(["map", out, photos, "--rig", "--remap", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["models"][0]["rig"]) == ["left", "right"]
    assert main(["map", out, photos, "--rig"]) == 0
    assert "rig, from left: right " in capsys.readouterr().out


def test_mistakes_are_reported_before_the_work(folder, tmp_path):
    other = tmp_path / "rig.json"
    other.write_text(json.dumps([{"cameras": [{"image_prefix": "up/", "ref_sensor": True}]}]))
    for options, kind, message in [
        ({"rig_config": other}, DiskError, "is for rig"),
        ({"rig": True, "rig_config": other}, ColmapError, "for cameras up, but the folders of the images are left, r"),
        (
            {"rig": True, "single_camera": True},
            ColmapError,
            "needs exactly one camera, not shared with others, but left, right have 1",
        ),
    ]:
        with pytest.raises(kind, match=message):
            folder.run(**options)
    (folder.photos / "right" / "0000.jpg").rename(folder.photos / "right" / "0000.jpeg")
    with pytest.raises(ColmapError, match=r"0000 have extensions \.jpg and \.jpeg"):
        folder.run(rig=True)
    for path in (folder.photos / "right").iterdir():
        path.unlink()
    with pytest.raises(PairsError, match="a rig needs several cameras, but all images are in one folder, left/"):
        folder.run(rig=True)
    assert folder.detected == []


def test_a_configuration_is_not_deleted(folder):
    config = folder.out / "rig_config.json"
    write_rig(
        config,
        {
            "left": Mounted([1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
            "right": Mounted([1.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.0]),
        },
    )
    with pytest.raises(ArtifactError, match="copy it elsewhere"):
        folder.run(rig=True, rig_config=config, overwrite=True)
    assert config.exists()
