"""Malicious names: no file is read or written outside the folder that a name belongs to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import h5py
import pytest
from fuzz_seeds import make_artifacts, make_model
from PIL import Image

from disk.cli.main import main
from disk.datasets.scenes import SceneSet
from disk.errors import DatasetError
from disk.storage.names import leads_out

linux = pytest.mark.skipif(sys.platform != "linux", reason="bounds memory by way of /proc")
HUGE = 10**12


OUTSIDE = ["../up", "a/../../up", "/etc/passwd", "a\0b", "", "x" * 5000]
OUTSIDE_ON_WINDOWS = [
    "..\\up",
    "a\\..\\..\\up",
    "C:\\x",
    "C:x",
    "\\\\host\\share\\x",
    "con",
    "a/NUL.jpg",
    "lpt1. ",
    "a:b",
]


def test_names_that_leave_the_folder() -> None:
    assert [name for name in OUTSIDE if not leads_out(name, windows=False)] == []
    assert [name for name in OUTSIDE + OUTSIDE_ON_WINDOWS if not leads_out(name, windows=True)] == []
    inside = ["a", "a/b.jpg", "..a", "a..b/c", "console", "Zürich/ß", ".hidden"]
    assert [name for name in inside if leads_out(name, windows=False) or leads_out(name, windows=True)] == []
    assert not leads_out("con\\..\\a:b", windows=False)  # a valid name there


def test_features_with_names_that_leave_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifacts = make_artifacts(tmp_path / "artifacts")
    for file in ("keypoints.h5", "descriptors.h5", "scores.h5"):
        with h5py.File(artifacts / file, "a") as opened:
            opened["../../evil"] = opened["a"][()]
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "photos" / "a.png")
    photos, out = str(tmp_path / "photos"), str(tmp_path / "deep" / "er" / "out")
    assert main(["export", str(artifacts), photos, "--format", "imw", "--output", out]) == 2
    assert "'../../evil' leads out of the image folder" in capsys.readouterr().err
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/passwd", "a\0.jpg"])
def test_data_sets_with_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    scene: dict[str, Any] = {"image_path": ".", "calib_path": ".", "images": ["a", name], "tuples": [[0, 1]]}
    (tmp_path / "dataset.json").write_text(json.dumps({"s": scene}))
    with pytest.raises(DatasetError, match="not below image_path"):
        SceneSet.load(tmp_path)
    scene |= {"images": ["a", "b"], "calib_path": "\0"}
    (tmp_path / "dataset.json").write_text(json.dumps({"s": scene}))
    with pytest.raises(DatasetError, match="is not a folder"):
        SceneSet.load(tmp_path)
    (tmp_path / "dataset.json").write_text("[" * 100_000)
    with pytest.raises(DatasetError, match="not a json file"):
        SceneSet.load(tmp_path)


def test_models_with_names_that_leave_the_folder(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    from disk.datasets.import_colmap import ImportOptions, import_colmap

    make_model(tmp_path / "work", "bin")
    model = pycolmap.Reconstruction(tmp_path / "work")
    for number, name in ((1, "../up.png"), (2, str(tmp_path / "up.png")), (3, "a/../../up.png")):
        model.image(number).name = name
    model.write_binary(tmp_path / "work")
    (tmp_path / "work" / "images").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "up.png")
    with pytest.raises(DatasetError, match=r"none of the model's images .* lies outside the image folder"):
        import_colmap(tmp_path / "work", ImportOptions())


def test_a_hostile_name_is_one_line_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "evil\n\x1b[2J\x9b31m.h5"
    (tmp_path / name).write_text("nothing")
    assert main(["view", str(tmp_path / name), str(tmp_path), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert not set(error.rstrip("\n")) & {*map(chr, range(32)), "\x9b"}


def test_a_pose_list_stays_in_the_folder_of_images(tmp_path: Path) -> None:
    from disk.errors import EvaluationError
    from disk.evaluation.ground_truth import read_pose_pairs

    (tmp_path / "images").mkdir()
    K = "50 0 31.5 0 50 23.5 0 0 1"
    Image.new("RGB", (64, 48)).save(tmp_path / "up.png")
    (tmp_path / "pairs.txt").write_text(f"../up.png ../up.png 0 0 {K} {K} 1 0 0 0 0 1 0 0 0 0 1 1 0 0 0 1\n")
    with pytest.raises(EvaluationError, match=r"pairs\.txt:1: '\.\./up\.png' is not below"):
        read_pose_pairs(tmp_path / "pairs.txt", tmp_path / "images")
