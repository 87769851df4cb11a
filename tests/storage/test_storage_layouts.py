"""IMW and hloc layouts: what their tools expect, and that reading returns what was written."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from disk.errors import ArtifactError
from disk.storage.artifacts import FeatureStore, MatchStore
from disk.storage.layouts import (
    HlocFeatures,
    open_features,
    write_hloc,
    write_imw,
)

NAMES = ["a", "b-c", "sub/a", "sub/d", "z"]
PATHS = {name: f"{name}.jpg" for name in NAMES}
SIZES = dict.fromkeys(NAMES, (640, 480))
PAIRS = {
    ("a", "b-c"): [[0, 2, 3], [3, 0, 1]],
    ("a", "sub/d"): [[1], [0]],
    ("sub/a", "sub/d"): [[2, 4], [0, 1]],
    ("a", "z"): [[], []],
}


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Features of five images (one has none) and four pairs, written key by key in the layout of `disk`."""
    folder = tmp_path / "artifacts"
    folder.mkdir()
    rng = np.random.default_rng(0)
    with (
        h5py.File(folder / "keypoints.h5", "w") as keypoints,
        h5py.File(folder / "descriptors.h5", "w") as descriptors,
        h5py.File(folder / "scores.h5", "w") as scores,
    ):
        for name in NAMES:
            count = 0 if name == "z" else 5
            rows = rng.normal(size=(count, 8)).astype(np.float32)
            keypoints[name] = rng.uniform(0, 400, (count, 2)).astype(np.float32)
            descriptors[name] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            scores[name] = rng.normal(size=count).astype(np.float32)
    with h5py.File(folder / "matches.h5", "w") as file:
        for (name0, name1), indices in PAIRS.items():
            file[f"{name0.replace('/', '|')}/{name1.replace('/', '|')}"] = np.array(indices, np.int64)
    return folder


def _hloc(artifacts: Path, out: Path) -> None:
    with FeatureStore(artifacts) as features, MatchStore(artifacts / "matches.h5") as matches:
        write_hloc(features, matches, PATHS, SIZES, out)


def test_imw_has_one_sequence_per_folder_and_every_pair(artifacts: Path, tmp_path: Path) -> None:
    out = tmp_path / "imw"
    with FeatureStore(artifacts) as features, MatchStore(artifacts / "matches.h5") as matches:
        assert write_imw(features, matches, out) == 1  # a - sub/d crosses folders
    with h5py.File(out / "matches.h5") as file:
        # A > B for all pairs of the images a, b-c, z
        assert sorted(file) == ["b-c-a", "z-a", "z-b-c"]
        # row 0 indexes the first image of the key
        assert file["b-c-a"][()].tolist() == [[3, 0, 1], [0, 2, 3]]
        assert file["z-b-c"].shape == (2, 0)
    with h5py.File(out / "sub" / "matches.h5") as file:
        assert {key: item[()].tolist() for key, item in file.items()} == {"d-a": [[0, 1], [2, 4]]}
    with h5py.File(out / "sub" / "keypoints.h5") as file, h5py.File(artifacts / "keypoints.h5") as ours:
        assert sorted(file) == ["a", "d"]
        assert np.array_equal(file["a"], ours["sub/a"])


def test_imw_reads_back_as_it_was(artifacts: Path, tmp_path: Path) -> None:
    out = tmp_path / "imw"
    with FeatureStore(artifacts) as features, MatchStore(artifacts / "matches.h5") as matches:
        write_imw(features, matches, out)
    with open_features(out) as read, FeatureStore(artifacts) as ours:
        for name in ("a", "b-c", "z"):
            for part in ("keypoints", "descriptors", "scores"):
                assert torch.equal(getattr(read[name], part), getattr(ours[name], part))


def test_hloc_is_what_its_tools_expect(artifacts: Path, tmp_path: Path) -> None:
    _hloc(artifacts, tmp_path)
    with h5py.File(tmp_path / "features.h5") as file, h5py.File(artifacts / "descriptors.h5") as ours:
        group = file["sub/d.jpg"]
        assert np.array_equal(group["descriptors"][()], ours["sub/d"][()].T)
        assert group["keypoints"].shape == (5, 2)
        assert group["keypoint_scores"].shape == (5,)
        assert group["image_size"][()].tolist() == [640, 480]
        first, second = ours["a"][()], ours["b-c"][()]
    with h5py.File(tmp_path / "matches.h5") as file:
        group = file["a.jpg"]["b-c.jpg"]
        assert group["matches0"].dtype == np.int16
        assert group["matches0"][()].tolist() == [3, -1, 0, 1, -1]
        assert group["matching_scores0"].dtype == np.float16
        expected = (1 + first[0] @ second[3]) / 2
        assert group["matching_scores0"][0] == pytest.approx(expected, abs=1e-3)
        assert group["matching_scores0"][1] == 0
        assert file["sub-a.jpg"]["sub-d.jpg"]["matches0"][()].tolist() == [-1, -1, 0, -1, 1]
        assert (file["a.jpg"]["z.jpg"]["matches0"][()] == -1).all()
    lines = (tmp_path / "pairs.txt").read_text().splitlines()
    assert lines == ["a.jpg b-c.jpg", "a.jpg sub/d.jpg", "a.jpg z.jpg", "sub/a.jpg sub/d.jpg"]


def test_hloc_reads_back_as_it_was(artifacts: Path, tmp_path: Path) -> None:
    _hloc(artifacts, tmp_path)
    with open_features(tmp_path / "features.h5") as read, FeatureStore(artifacts) as ours:
        assert isinstance(read, HlocFeatures)
        assert read.names == NAMES
        assert read.paths == PATHS
        for name in NAMES:
            for part in ("keypoints", "descriptors", "scores"):
                assert torch.equal(getattr(read[name], part), getattr(ours[name], part))
            assert read.image_size(name) == (640, 480)


def test_hloc_file_of_another_program_without_scores(tmp_path: Path) -> None:
    """hloc stores float16, and other extractors add columns to the keypoints."""
    with h5py.File(tmp_path / "features.h5", "w") as file:
        file["x/y.png/keypoints"] = np.array([[1, 2, 9], [3, 4, 9]], np.float16)
        file["x/y.png/descriptors"] = np.eye(4, 2, dtype=np.float16)
    with open_features(tmp_path) as read:
        assert read["x/y"].keypoints.tolist() == [[1, 2], [3, 4]]
        assert read["x/y"].descriptors.shape == (2, 4)
        assert read["x/y"].scores.tolist() == [0, 0]


def test_names_that_collide_in_hloc(artifacts: Path, tmp_path: Path) -> None:
    paths = dict(PATHS) | {"sub/a": "x/a.jpg", "a": "x-a.jpg"}
    with (
        FeatureStore(artifacts) as features,
        MatchStore(artifacts / "matches.h5") as matches,
        pytest.raises(ArtifactError, match=r"x-a\.jpg and x/a\.jpg"),
    ):
        write_hloc(features, matches, paths, SIZES, tmp_path / "out")


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"neither keypoints\.h5"):
        open_features(tmp_path)
    (tmp_path / "features.h5").write_text("no HDF5")
    with pytest.raises(ArtifactError, match="cannot be read as HDF5"):
        open_features(tmp_path)
    with h5py.File(tmp_path / "features.h5", "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(ArtifactError, match="holds no features"):
        open_features(tmp_path)
    with h5py.File(tmp_path / "features.h5", "w") as file:
        file["a.jpg/keypoints"] = np.zeros((3, 2))
        file["a.jpg/descriptors"] = np.zeros((3, 8))  # transposed
    with open_features(tmp_path) as read, pytest.raises(ArtifactError, match=r"not \(D, N\)"):
        read["a"]


def test_unwritable_output(artifacts: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file, not a folder")
    with pytest.raises(ArtifactError, match="cannot write"):
        _hloc(artifacts, tmp_path / "out")


def test_lines_that_hloc_would_misread_are_not_written(
    artifacts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = PATHS | {"sub/d": "sub/d 1.jpg"}
    with FeatureStore(artifacts) as features, MatchStore(artifacts / "matches.h5") as matches:
        write_hloc(features, matches, paths, SIZES, tmp_path)
    lines = (tmp_path / "pairs.txt").read_text().splitlines()
    assert [line.split() for line in lines] == [["a.jpg", "b-c.jpg"], ["a.jpg", "z.jpg"]]
    assert "skips 2 of 4 pairs" in caplog.text
    assert "'sub/d 1.jpg'" in caplog.text
    with HlocFeatures(tmp_path / "features.h5") as store, h5py.File(tmp_path / "matches.h5") as file:
        assert len(store) == 5
        assert "sub-d 1.jpg" in file["a.jpg"]


def test_a_model_stands_for_its_artifacts(artifacts: Path) -> None:
    with open_features(artifacts.parent) as features:
        assert list(features.names) == NAMES
