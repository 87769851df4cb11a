"""dataset.json: the original's, ours, and invalid ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from disk.datasets.scenes import SceneSet, write_dataset_json
from disk.errors import ArtifactError, DatasetError


def test_reads_relative_and_absolute_folders(maker, tmp_path: Path) -> None:
    path = maker.scene().scene("there", depth=False).write()
    for source in (path, tmp_path):
        scenes = SceneSet.load(source)
        assert [scene.name for scene in scenes.scenes] == ["here", "there"]
        assert scenes.tuple_size == 3
        assert scenes.scenes[0].image_path == tmp_path / "here/images"
        assert scenes.scenes[0].depth_path == tmp_path / "here/depth"
        assert scenes.scenes[1].depth_path is None
        np.testing.assert_array_equal(scenes.scenes[0].tuples, [[0, 1, 2], [1, 2, 3]])
    for key in ("image_path", "depth_path", "calib_path"):
        maker.data["here"][key] = str(tmp_path / maker.data["here"][key])
    absolute = tmp_path / "elsewhere" / "dataset.json"
    absolute.parent.mkdir()
    absolute.write_text(json.dumps({"here": maker.data["here"]}))
    assert SceneSet.load(absolute).scenes[0].calib_path == tmp_path / "here/calibration"


@pytest.mark.parametrize("folder", [None, ""])
def test_a_scene_without_depth_maps(maker, folder: str | None) -> None:
    """The original's importer writes '' with --no-depth, ours writes null."""
    maker.scene().data["here"]["depth_path"] = folder
    scene = SceneSet.load(maker.write()).scenes[0]
    assert scene.depth_path is None
    assert scene.depth_file("a.jpg") is None


@pytest.mark.parametrize("relative", [True, False])
def test_written_scenes_read_back(maker, tmp_path: Path, relative: bool) -> None:
    scenes = SceneSet.load(maker.scene().scene("there", depth=False).write()).scenes
    (tmp_path / "deeper").mkdir()
    path = tmp_path / "deeper" / "dataset.json"
    write_dataset_json(path, scenes, relative)
    stored = json.loads(path.read_text())["here"]["image_path"]
    assert stored == ("../here/images" if relative else str(tmp_path / "here/images"))
    for before, after in zip(scenes, SceneSet.load(path).scenes, strict=True):
        assert before.image_path.resolve() == after.image_path.resolve()
        assert (before.name, list(before.images)) == (after.name, list(after.images))
        assert (before.depth_path is None) == (after.depth_path is None)
        np.testing.assert_array_equal(before.tuples, after.tuples)
    assert [file.name for file in path.parent.iterdir()] == ["dataset.json"]


def test_scenes_without_tuples_are_skipped(maker) -> None:
    scenes = SceneSet.load(maker.scene().scene("empty", tuples=()).write())
    assert [scene.name for scene in scenes.scenes] == ["here"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tuples", [[0, 1, 2], [0, 1]], "tuple 0 has 3 images but tuple 1 has 2"),
        ("tuples", [[0], [1]], "at least 2"),
        ("tuples", [[0, 1, 9]], r"tuple 0 is \[0, 1, 9\]"),
        ("tuples", [[0, 1, 2], [-1, 1, 2]], r"tuple 1 is \[-1, 1, 2\]"),
        ("tuples", [[0, 1, 1]], r"tuple 0 is \[0, 1, 1\]"),
        ("tuples", [[0, 1, 0.5]], "must contain integers"),
        ("tuples", [["a", "b"]], "must contain integers"),
        ("tuples", [[[0], [1]]], "must contain integers"),
        ("tuples", [[True, False]], "must contain integers"),
        ("tuples", [[0, 1 << 80]], "must contain integers"),
        ("tuples", {"0": [0, 1]}, "list of lists"),
        ("tuples", [0, 1], "list of lists"),
        ("tuples", [], "no tuples"),
        ("images", "a.jpg", "list of file names"),
        ("images", [1, 2, 3, 4], "list of file names"),
        ("image_path", "nowhere", "nowhere is not a folder"),
        ("calib_path", None, "calib_path must be the name of a folder"),
        ("depth_path", "nowhere", "nowhere is not a folder"),
    ],
)
def test_faults_are_one_line_that_names_the_scene(maker, key: str, value: Any, message: str) -> None:
    maker.scene().data["here"][key] = value
    with pytest.raises(DatasetError, match=message) as error:
        SceneSet.load(maker.write())
    assert "\n" not in str(error.value)
    assert "'here'" in str(error.value) or value == []


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"a": 1}', '{"a": []}', "{", "\x00\xff"])
def test_a_json_of_another_shape(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        SceneSet.load(tmp_path)


def test_missing_keys_and_files(maker, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        SceneSet.load(tmp_path)
    del maker.scene().data["here"]["images"], maker.data["here"]["calib_path"]
    with pytest.raises(DatasetError, match="calib_path, images missing"):
        SceneSet.load(maker.write())


def test_scenes_with_tuples_of_different_length(maker) -> None:
    with pytest.raises(DatasetError, match="of 3 images in scene 'here' but of 2 in 'there'"):
        SceneSet.load(maker.scene().scene("there", tuples=((0, 1),)).write())


def test_a_full_disk_keeps_the_old_file(maker, monkeypatch: pytest.MonkeyPatch) -> None:
    path = maker.scene().write()
    before = path.read_text()
    scenes = SceneSet.load(path).scenes

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ArtifactError, match="No space left on device; make room"):
        write_dataset_json(path, scenes, relative=False)
    assert path.read_text() == before
