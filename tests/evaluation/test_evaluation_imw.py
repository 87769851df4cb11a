import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import h5py
import numpy as np
import pytest
from evaluation_world import K, make_world
from PIL import Image

from disk.errors import EvaluationError
from disk.evaluation.ground_truth import read_pose_pairs
from disk.evaluation.imw import ImwOptions, evaluate_imw

QUICK = {"threshold": (1.0,), "ratio": (0.9,)}


def make_scene(root: Path, name: str, noise: float) -> tuple[Path, Path]:
    """A scene folder of the benchmark and, as in a submission, its features in `features/NAME`."""
    world = make_world(root / f"world-{name}", noise=noise, views=3)
    folder = root / "phototourism" / name / "set_100"
    for part in ("images", "calibration", "new-vis-pairs"):
        (folder / part).mkdir(parents=True)
    # cam0 is the world frame: the poses of pairs (v0, v1) and (v0, v2) are those of v1 and v2
    poses = {"v0": (np.eye(3), np.zeros(3))}
    poses |= {pair.view1.name: (pair.R, pair.t) for pair in read_pose_pairs(world.pairs, world.images)[:2]}
    for view, (R, t) in poses.items():
        Image.new("RGB", (640, 480)).save(folder / "images" / f"{view}.jpg")
        with h5py.File(folder / "calibration" / f"calibration_{view}.h5", "w") as file:
            file["K"], file["R"], file["T"] = K, R, t
    np.save(folder / "new-vis-pairs" / "keys-th-0.1.npy", ["v1-v0", "v2-v0", "v2-v1"])
    (root / "features").mkdir(exist_ok=True)
    world.artifacts.rename(root / "features" / name)
    return folder.parent, root / "features"


def test_scenes_and_their_mean(tmp_path, capsys):
    (rome, features), (paris, _) = make_scene(tmp_path, "rome", 0), make_scene(tmp_path, "paris", 0.8)
    json_file = tmp_path / "imw.json"
    report = evaluate_imw((rome, paris), ImwOptions(features=(features,), json=json_file, **QUICK))
    (result,) = report.results
    assert result.label == "features"
    assert result.figures["rome"]["mAA(10)"] == pytest.approx(100)
    mean = result.figures["mean of the scenes"]
    assert mean["mAA(10)"] == pytest.approx((100 + result.figures["paris"]["mAA(10)"]) / 2)
    assert 0 < result.figures["paris"]["mAA(10)"] < 100
    assert mean["failures"] == result.figures["rome"]["failures"] + result.figures["paris"]["failures"]
    assert mean["seconds per image"] is None  # not known for stored features
    assert "mAA(10), halved angle" not in result.figures["rome"]
    assert "IMW stereo, 6 pairs of rome, paris" in capsys.readouterr().out
    assert len(json.loads(json_file.read_text())["results"][0]["scenes"]["paris"]["errors"]) == 3


def test_legacy_halves_the_rotation_error_and_nothing_else(tmp_path):
    scene, features = make_scene(tmp_path, "rome", 0)
    # the first camera rotated in place by 5.9 degrees: its position relative to the other stays correct
    angle = np.radians(5.9)
    wrong = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    calibration = scene / "set_100" / "calibration"
    with h5py.File(calibration / "calibration_v0.h5", "a") as file:
        R, T = file["R"][()], file["T"][()]
        centre = -R.T @ T
        file["R"][...], file["T"][...] = wrong @ R, -wrong @ R @ centre
    np.save(scene / "set_100" / "new-vis-pairs" / "keys-th-0.1.npy", ["v0-v1"])
    report = evaluate_imw((scene,), ImwOptions(features=(features,), legacy=True, **QUICK))
    figures = report.results[0].figures["rome"]
    assert list(report.results[0].figures) == ["rome", "chosen"]  # a single scene has no mean
    assert figures["mAA(10)"] == pytest.approx(50)  # 5.9: below 6, 7, 8, 9, 10
    assert figures["mAA(10), halved angle"] == pytest.approx(80)  # 2.95: below 3, ..., 10


def test_one_ratio_and_threshold_for_all_scenes(tmp_path):
    (rome, features), (paris, _) = make_scene(tmp_path, "rome", 0), make_scene(tmp_path, "paris", 0.8)
    options = ImwOptions(features=(features,), threshold=(0.01, 4.0), ratio=(0.9,), json=tmp_path / "imw.json")
    (result,) = evaluate_imw((rome, paris), options).results
    data = json.loads((tmp_path / "imw.json").read_text())["results"][0]
    by_threshold = [
        np.mean([data["scenes"][scene]["settings"][i]["mAA(10)"] for scene in ("rome", "paris")]) for i in (0, 1)
    ]
    assert result.figures["chosen"]["threshold"] == options.threshold[int(np.argmax(by_threshold))]
    assert result.figures["mean of the scenes"]["mAA(10)"] == pytest.approx(max(by_threshold))


def test_unusable_scenes(tmp_path):
    with pytest.raises(EvaluationError, match="no scenes"):
        evaluate_imw(())
    scene, features = make_scene(tmp_path, "rome", 0)
    with pytest.raises(EvaluationError, match="share a name"):
        evaluate_imw((scene, scene), ImwOptions(features=(features,)))


def test_options_have_the_defaults_of_the_protocol_and_are_keyword_only():
    assert (ImwOptions().visibility, ImwOptions().legacy) == ("0.1", False)
    with pytest.raises(TypeError):
        ImwOptions((1.0,))
    with pytest.raises(FrozenInstanceError):
        ImwOptions().n = 5
