"""Features of other programs."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from evaluation_world import unit

from disk.errors import ArtifactError
from disk.evaluation.ground_truth import View
from disk.evaluation.options import FeatureOptions
from disk.evaluation.sources import open_sources


def write_layout(layout: str, folder: Path, keypoints: np.ndarray, descriptors: np.ndarray, scores: np.ndarray) -> Path:
    """hloc's layout with the name of its scores after a colon, or ours."""
    folder.mkdir()
    if layout.startswith("hloc"):
        with h5py.File(folder / "feats.h5", "w") as file:
            group = file.create_group("sub/a.jpg")
            group["keypoints"], group["descriptors"] = keypoints, descriptors.T
            if layout != "hloc":
                group[layout.removeprefix("hloc:")] = scores
        return folder / "feats.h5"
    for name, data in (("keypoints", keypoints), ("descriptors", descriptors), ("scores", scores)):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["sub/a"] = data
    return folder


@pytest.mark.parametrize("layout", ["ours", "hloc:keypoint_scores", "hloc:scores"])
def test_stored_features_are_the_n_best_with_unit_descriptors(tmp_path, layout):
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(0, 100, (6, 2)).astype(np.float32)
    descriptors, scores = 300 * unit(rng, 6, 8).astype(np.float32), np.float32([3, 1, 6, 2, 5, 4])
    path = write_layout(layout, tmp_path / "elsewhere", keypoints, descriptors, scores)
    (source,) = open_sources(FeatureOptions(features=(path,), n=3))
    view = View(tmp_path / "sub" / "a.jpg", "sub/a")
    assert source.prepare([view]) is None
    found = source.features(view)
    np.testing.assert_array_equal(found.keypoints.numpy(), keypoints[[2, 4, 5]])
    np.testing.assert_allclose(found.descriptors.numpy(), descriptors[[2, 4, 5]] / 300, rtol=1e-5)
    with pytest.raises(ArtifactError, match="no features of 'b' and 1 more"):
        source.prepare([view, View(tmp_path / "b.jpg", "b"), View(tmp_path / "c.jpg", "c")])


@pytest.mark.parametrize(("length", "expected"), [(0.5, 1.0), (1.02, 1.0), (1.005, 1.005), (0.995, 0.995), (0.0, 0.0)])
def test_descriptors_of_another_length_are_normalized(tmp_path, length, expected):
    """Lengths within a hundredth of 1 are kept, and zeros stay zeros."""
    descriptors = np.float32([[length, 0, 0], [0, length, 0]])
    write_layout("ours", tmp_path / "elsewhere", np.zeros((2, 2), np.float32), descriptors, np.float32([1, 1]))
    (source,) = open_sources(FeatureOptions(features=(tmp_path / "elsewhere",)))
    found = source.features(View(tmp_path / "sub" / "a.jpg", "sub/a"))
    np.testing.assert_allclose(found.descriptors.numpy(), expected * np.eye(2, 3), rtol=1e-6)


def test_a_view_may_have_no_features(tmp_path):
    arrays = np.zeros((0, 2), np.float32), np.zeros((0, 8), np.float32), np.zeros(0, np.float32)
    write_layout("ours", tmp_path / "elsewhere", *arrays)
    (source,) = open_sources(FeatureOptions(features=(tmp_path / "elsewhere",)))
    assert source.features(View(tmp_path / "sub" / "a.jpg", "sub/a")).descriptors.shape == (0, 8)
    with pytest.raises(ArtifactError, match=r"no features of 'b'$"):
        source.prepare([View(tmp_path / "b.jpg", "b")])


def test_without_scores_the_best_are_unknown(tmp_path, caplog):
    rng = np.random.default_rng(0)
    arrays = np.zeros((6, 2), np.float32), unit(rng, 6, 8).astype(np.float32), np.zeros(6, np.float32)
    path = write_layout("hloc", tmp_path / "elsewhere", *arrays)
    view = View(tmp_path / "sub" / "a.jpg", "sub/a")
    (source,) = open_sources(FeatureOptions(features=(path,), n=5))
    with pytest.raises(ArtifactError, match=r"no scores for 'sub/a'.*n=6 or more"):
        source.prepare([view])
    (source,) = open_sources(FeatureOptions(features=(path,), n=6))
    source.prepare([view])
    assert "no scores for 1 image: using all" in caplog.text
    assert len(source.features(view)) == 6


def test_a_folder_of_several_scenes_is_searched(tmp_path):
    rng = np.random.default_rng(0)
    arrays = np.zeros((6, 2), np.float32), unit(rng, 6, 8).astype(np.float32), np.zeros(6, np.float32)
    (tmp_path / "submission").mkdir()
    write_layout("ours", tmp_path / "submission" / "rome", *arrays)
    (source,) = open_sources(FeatureOptions(features=(tmp_path / "submission",)), "rome")
    assert source.label == "submission"
    assert len(source.features(View(tmp_path / "a.jpg", "sub/a"))) == 6
    (alone,) = open_sources(FeatureOptions(features=(tmp_path / "submission" / "rome",)), "rome")
    assert len(alone.features(View(tmp_path / "a.jpg", "sub/a"))) == 6


def test_of_equal_scores_the_first_are_used(tmp_path):
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(0, 100, (300, 2)).astype(np.float32)
    scores = rng.integers(0, 3, 300).astype(np.float32)
    path = write_layout("hloc:scores", tmp_path / "many", keypoints, unit(rng, 300, 8).astype(np.float32), scores)
    (source,) = open_sources(FeatureOptions(features=(path,), n=200))
    order = sorted(range(300), key=lambda i: -scores[i])  # Python's sort is stable
    found = source.features(View(tmp_path / "sub" / "a.jpg", "sub/a"))
    np.testing.assert_array_equal(found.keypoints.numpy(), keypoints[order[:200]])
