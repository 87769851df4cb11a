"""Merging data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from disk.datasets.merge import merge
from disk.datasets.scenes import SceneSet
from disk.datasets.tuples import TupleDataset
from disk.errors import DatasetError


@pytest.fixture
def three(maker, tmp_path: Path) -> list[Path]:
    """Data sets in separate folders with the scenes rock; rock and rock-2; lewis."""
    sources = []
    for folder, names in (("one", ["rock"]), ("two", ["rock", "rock-2"]), ("three", ["lewis"])):
        fresh = type(maker)(tmp_path / folder)
        for name in names:
            fresh.scene(name, depth=name != "lewis")
        sources.append(fresh.write())
    return sources


@pytest.mark.parametrize("relative", [True, False])
def test_all_scenes_under_unique_names(three: list[Path], tmp_path: Path, relative: bool) -> None:
    out = tmp_path / "data/train/dataset.json"
    scenes = merge(three, out, relative)
    loaded = SceneSet.load(tmp_path / "data/train")
    assert [scene.name for scene in loaded.scenes] == ["rock", "rock-3", "rock-2", "lewis"]
    assert [scene.name for scene in scenes] == [scene.name for scene in loaded.scenes]
    folders = [scene.image_path.resolve() for scene in loaded.scenes]
    assert folders == [
        tmp_path / path for path in ("one/rock/images", "two/rock/images", "two/rock-2/images", "three/lewis/images")
    ]
    tuples = TupleDataset(loaded, 40, 60)
    assert len(tuples) == 8
    assert [view.depth is None for view in tuples[7]] == [True] * 3
    np.testing.assert_array_equal(loaded.scenes[3].tuples, [[0, 1, 2], [1, 2, 3]])


def test_a_merged_set_can_be_moved_with_its_scenes(three: list[Path], tmp_path: Path) -> None:
    merge(three, tmp_path / "merged.json", relative=True)
    (tmp_path / "moved").mkdir()
    for name in ("one", "two", "three", "merged.json"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert len(TupleDataset(SceneSet.load(tmp_path / "moved/merged.json"), 40, 60)) == 8


def test_the_result_may_replace_a_source(three: list[Path]) -> None:
    merge([three[0], three[2]], three[0])
    assert [scene.name for scene in SceneSet.load(three[0]).scenes] == ["rock", "lewis"]


def test_tuples_of_different_length(maker, three: list[Path], tmp_path: Path) -> None:
    pairs = maker.scene("pairs", tuples=((0, 1),)).write()
    with pytest.raises(DatasetError, match=r"one/dataset\.json has tuples of 3 images but .* of 2; .*tuple_size"):
        merge([three[0], pairs], tmp_path / "merged.json")
    with pytest.raises(DatasetError, match="nothing to merge"):
        merge([], tmp_path / "merged.json")
    with pytest.raises(DatasetError, match="no such file"):
        merge([tmp_path / "nowhere.json"], tmp_path / "merged.json")
    assert not (tmp_path / "merged.json").exists()


def test_a_data_set_given_twice(three: list[Path], tmp_path: Path) -> None:
    """As a file and as its folder."""
    with pytest.raises(DatasetError, match=r"one/dataset\.json is given 2 times"):
        merge([three[0], three[1], three[0].parent], tmp_path / "merged.json")
    assert not (tmp_path / "merged.json").exists()


def test_only_data_sets_are_replaced(three: list[Path], tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_text("precious")
    with pytest.raises(DatasetError, match=r"photo\.jpg: a data set is a \.json file"):
        merge(three, photo)
    assert photo.read_text() == "precious"
    (tmp_path / "all").mkdir()
    merge(three, tmp_path / "all")  # a folder stands for the file in it
    assert len(SceneSet.load(tmp_path / "all" / "dataset.json").scenes) == 4
