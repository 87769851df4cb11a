from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from disk.errors import ArtifactError
from disk.storage.artifacts import feature_writer, read_features, read_matches


def write_features(folder: Path, sizes: dict[str, int]) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    writer = feature_writer(folder, {"n": 9}, "abc", overwrite=False, shard_bytes=1000)
    stored = {}
    for name, n in sizes.items():
        stored[name] = {
            "keypoints.h5": rng.random((n, 2), np.float32),
            "descriptors.h5": rng.random((n, 4), np.float32),
            "scores.h5": rng.random(n, np.float32),
        }
        writer.add(name, stored[name], {"image_size": (40, 30), "image_path": f"{name}.jpg"})
    writer.finish()
    return stored


def test_features_are_read_as_written(tmp_path: Path) -> None:
    stored = write_features(tmp_path, {"b": 5, "a": 0, "sub/deep/c": 3})
    with read_features(tmp_path) as store:
        assert store.names == list(store) == ["a", "b", "sub/deep/c"]
        assert len(store) == 3
        assert store.attributes["weights"] == "abc"
        for name, arrays in stored.items():
            features = store[name]
            np.testing.assert_array_equal(features.keypoints, arrays["keypoints.h5"])
            np.testing.assert_array_equal(features.descriptors, arrays["descriptors.h5"])
            np.testing.assert_array_equal(features.scores, arrays["scores.h5"])
            np.testing.assert_array_equal(store.keypoints(name), arrays["keypoints.h5"])
            np.testing.assert_array_equal(store.scores(name), arrays["scores.h5"])
            assert store.image_size(name) == (40, 30)
            assert store.image_path(name) == f"{name}.jpg"


def test_files_of_the_original(tmp_path: Path) -> None:
    """No attributes, no scores, float16 descriptors."""
    with h5py.File(tmp_path / "keypoints.h5", "w") as k, h5py.File(tmp_path / "descriptors.h5", "w") as d:
        k["a"] = np.ones((3, 2), np.float32)
        d["a"] = np.full((3, 128), 0.5, np.float16)
    with read_features(tmp_path) as store:
        features = store["a"]
        assert features.descriptors.shape == (3, 128)
        assert features.descriptors.numpy().dtype == np.float32
        assert features.scores.tolist() == store.scores("a").tolist() == [0, 0, 0]
        with pytest.raises(ArtifactError, match="has no image_size of 'a'"):
            store.image_size("a")


def test_unreadable_features(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="run `disk detect` first"):
        read_features(tmp_path)
    write_features(tmp_path, {"a": 2})
    with read_features(tmp_path) as store, pytest.raises(ArtifactError, match=r"keypoints\.h5 has no 'x'"):
        store["x"]
    with h5py.File(tmp_path / "descriptors.h5", "a") as file:
        del file["a"]
        file["a"] = np.zeros((3, 4))
    with (
        read_features(tmp_path) as store,
        pytest.raises(ArtifactError, match=r"descriptors\.h5.*\(3, 4\), not .* 2 x N"),
    ):
        store["a"]
    (tmp_path / "descriptors.h5").unlink()
    with read_features(tmp_path) as store, pytest.raises(ArtifactError, match=r"no descriptors\.h5"):
        store["a"]
    (tmp_path / "keypoints.h5").write_text("text")
    with pytest.raises(ArtifactError, match="cannot be read as HDF5"):
        read_features(tmp_path)


def test_keypoints_of_another_program(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "keypoints.h5", "w") as file:
        file["a/keypoints"] = np.zeros((4, 3))
        file["b"] = "text"
    with read_features(tmp_path) as store:
        for name in ("a/keypoints", "b"):
            with pytest.raises(ArtifactError, match="another program"):
                store.keypoints(name)


def test_matches_are_read_in_either_order(tmp_path: Path) -> None:
    matches = np.array([[0, 1, 2], [5, 4, 3]], np.uint16)
    with h5py.File(tmp_path / "matches.h5", "w") as file:
        file["sub|a/sub|b"] = matches
        file["a/b"] = matches[:, :0]
        file.attrs["format"] = "test"
    with read_matches(tmp_path) as store:
        assert store.pairs() == [("a", "b"), ("sub/a", "sub/b")]
        assert store["sub/a", "sub/b"].dtype == np.int64
        np.testing.assert_array_equal(store["sub/a", "sub/b"], matches)
        np.testing.assert_array_equal(store["sub/b", "sub/a"], matches[::-1])
        assert store["a", "b"].shape == (2, 0)
        assert ("sub/b", "sub/a") in store
        assert ("a", "c") not in store
        assert "a" not in store
        assert store.attributes == {"format": "test"}
        with pytest.raises(ArtifactError, match="has no 'c/a'"):
            store["a", "c"]


def test_unreadable_matches(tmp_path: Path) -> None:
    for file, command in (("matches.h5", "match"), ("inliers.h5", "verify")):
        with pytest.raises(ArtifactError, match=f"run `disk {command}` first"):
            read_matches(tmp_path, file)
    with h5py.File(tmp_path / "matches.h5", "w") as file:
        file["a/b"] = np.zeros((3, 2))
        file["c"] = 1
    with read_matches(tmp_path) as store:
        with pytest.raises(ArtifactError, match="'c' is not a group"):
            store.pairs()
        with pytest.raises(ArtifactError, match="another program"):
            store["a", "b"]
