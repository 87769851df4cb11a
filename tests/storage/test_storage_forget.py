"""Deleting images and pairs from artifacts: everything that refers to them is deleted, the rest stays unchanged."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from disk.storage.artifacts import feature_writer, read_features, read_matches
from disk.storage.forget import forget_images, forget_pairs, known_images
from disk.storage.names import did_you_mean, find_name
from disk.storage.shards import ShardWriter, dataset_keys
from synthetic_scene import make_scene, write_features, write_matches

NAMES = ["a", "sub/b", "sub/c", "sub|d".replace("|", "_")]


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    scene = make_scene(NAMES, points=20, wrong=2)
    write_features(scene, tmp_path)
    write_matches(scene, tmp_path)
    return tmp_path


def test_an_image_is_deleted_with_its_pairs(artifacts: Path) -> None:
    with read_features(artifacts) as features, read_matches(artifacts) as matches:
        kept = features["sub/c"].descriptors.numpy()
        pair = matches["a", "sub/c"]
        attributes = features.attributes, matches.attributes
    forget_images(artifacts, ["sub/b", "unknown"])
    assert known_images(artifacts) == {"a", "sub/c", "sub_d"}
    with read_features(artifacts) as features, read_matches(artifacts) as matches:
        assert features.names == ["a", "sub/c", "sub_d"]
        assert np.array_equal(features["sub/c"].descriptors.numpy(), kept)
        assert features.image_path("sub/c") == "sub/c.jpg"
        assert matches.pairs() == [("a", "sub/c"), ("a", "sub_d"), ("sub/c", "sub_d")]
        assert np.array_equal(matches["a", "sub/c"], pair)
        assert (features.attributes, matches.attributes) == attributes


def test_shards_of_an_interrupted_run_are_cleaned_too(artifacts: Path) -> None:
    with read_features(artifacts) as features:
        options, weights = {"n": 4096}, features.attributes["weights"]
    writer = feature_writer(artifacts, options, weights, False, 1)
    for name in ("e", "f"):
        arrays = {
            "keypoints.h5": np.zeros((1, 2), np.float32),
            "descriptors.h5": np.zeros((1, 32), np.float32),
            "scores.h5": np.zeros(1, np.float32),
        }
        writer.add(name, arrays)  # one shard each, as after a kill
    inliers = ShardWriter(artifacts, "inliers", ["inliers.h5"], {"format": "x"}, shard_bytes=1)
    inliers.add("e/f", {"inliers.h5": np.zeros((2, 1), np.int64)})
    assert known_images(artifacts) == {*NAMES, "e", "f"}
    forget_images(artifacts, ["e"])
    assert known_images(artifacts) == {*NAMES, "f"}
    feature_writer(artifacts, options, weights, False, 1).finish()
    ShardWriter(artifacts, "inliers", ["inliers.h5"], {"format": "x"}).finish()
    with read_features(artifacts) as features, h5py.File(artifacts / "inliers.h5") as file:
        assert features.names == sorted([*NAMES, "f"])
        assert dataset_keys(file) == []


def test_only_pairs_are_deleted(artifacts: Path) -> None:
    assert forget_pairs(artifacts, lambda pair: "a" not in pair) == 3
    assert known_images(artifacts) == set(NAMES)
    with read_matches(artifacts) as matches:
        assert matches.pairs() == [("a", "sub/b"), ("a", "sub/c"), ("a", "sub_d")]


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("IMG 0001", "IMG 0001"), ("IMG 0001.jpg", "IMG 0001"), ("a/b.v1", "a/b.v1"), ("a/b.v1.png", "a/b.v1"),
        ("a\\b.v1.png", "a/b.v1"), ("b.v1", None), ("", None), (".", None),
    ],
)  # fmt: skip
def test_names_with_or_without_extension(word: str, name: str | None) -> None:
    assert find_name(word, {"IMG 0001", "a/b.v1"}) == name


def test_suggestions() -> None:
    assert did_you_mean("recontruct", ["reconstruct", "detect"]) == "; did you mean 'reconstruct'?"
    assert did_you_mean("imprt", ["import-colmap", "merge"]) == "; did you mean 'import-colmap'?"
    assert did_you_mean("xyz", ["reconstruct", "detect"]) == ""
