import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
import pytest
from evaluation_world import photo, unit, write_artifacts
from PIL import Image

from disk.errors import EvaluationError
from disk.evaluation.ground_truth import HomographyPair, View
from disk.evaluation.homography import HomographyOptions, accuracy_at, evaluate_homography, figures_of, match_result

WIDTH, HEIGHT = 320, 240
SIZE = (WIDTH, HEIGHT)


def homography(k: int) -> np.ndarray:
    return np.array([[1 - 0.02 * k, 0.01 * k, 2.0 * k], [-0.015 * k, 1 - 0.01 * k, k], [1e-5 * k, -2e-5 * k, 1]])


@pytest.fixture(scope="module")
def planes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """i_light: the same photo, six times; v_view: a photo warped by known homographies. With perfect features."""
    root = tmp_path_factory.mktemp("planes")
    rng = np.random.default_rng(0)
    first = photo(HEIGHT, WIDTH)
    points = rng.uniform([0, 0], [WIDTH - 1, HEIGHT - 1], (150, 2))
    keypoints, descriptors, words = {}, {}, unit(rng, 150)
    for name in ("i_light", "v_view"):
        (root / name).mkdir()
        for k in range(1, 7):
            H = homography(k) if name == "v_view" and k > 1 else np.eye(3)
            image = (
                cv2.warpPerspective(first, H, SIZE) if name == "v_view" else np.clip(first * (1.1 - 0.1 * k), 0, 255)
            )
            Image.fromarray(image.astype(np.uint8)).save(root / name / f"{k}.png")
            if k > 1:
                np.savetxt(root / name / f"H_1_{k}", H)
            order = rng.permutation(150)
            seen = cv2.perspectiveTransform(points[:, None], H)[order, 0]
            inside = ((seen >= 0) & (seen <= [WIDTH - 1, HEIGHT - 1])).all(axis=1)
            keypoints[f"{name}/{k}"], descriptors[f"{name}/{k}"] = seen[inside], words[order][inside]
    write_artifacts(root / "perfect", keypoints, descriptors)
    noise = {name: rng.uniform([0, 0], [WIDTH, HEIGHT], (150, 2)) for name in keypoints}
    write_artifacts(root / "random", noise, {name: unit(rng, 150) for name in keypoints})
    return root


def options_of(planes: Path, features: str = "perfect", **changes: object) -> HomographyOptions:
    return HomographyOptions(**{"features": (planes / features,), "threshold": (3.0,), "ratio": (1.0,), **changes})


def test_perfect_features_score_100(planes):
    (result,) = evaluate_homography(planes, options_of(planes)).results
    for split in ("all", "illumination", "viewpoint"):
        figures = result.figures[split]
        for name in ("MMA@1", "MMA@3", "MMA@10", "corners within 3 px", "AUC@3", "AUC@10"):
            assert figures[name] == pytest.approx(100, abs=0.1), (split, name)
        assert figures["repeatability"] == figures["matching score"] == 100
        assert figures["correct matches"] == figures["matches"] > 130
        assert figures["failures"] == 0
    assert result.curve[0] == list(range(1, 11))


def test_random_features_score_near_zero(planes):
    (result,) = evaluate_homography(planes, options_of(planes, "random")).results
    figures = result.figures["all"]
    assert figures["MMA@3"] < 3
    assert figures["AUC@10"] < 5
    assert figures["matching score"] < 3
    # 150 random points, discs of 3 px: the probability that one is near
    assert figures["repeatability"] == pytest.approx(100 * (1 - np.exp(-150 * np.pi * 9 / WIDTH / HEIGHT)), abs=2)


def test_rootsift_on_a_warped_photo(planes):
    options = HomographyOptions(method=("rootsift",), n=300, threshold=(3.0,), ratio=(0.85,))
    (result,) = evaluate_homography(planes, options).results
    assert result.figures["viewpoint"]["MMA@3"] > 85
    assert result.figures["viewpoint"]["corners within 3 px"] == 100
    assert result.figures["illumination"]["MMA@1"] > 95


def test_one_pair_by_hand():
    shift = np.array([[1.0, 0, 10], [0, 1, 0], [0, 0, 1]])
    pair = HomographyPair(View(Path("1"), "1"), View(Path("2"), "2"), shift, "v")
    points0 = np.array([[0.0, 0], [20, 20], [40, 40], [95, 0]])
    points1 = np.array([[10.0, 2], [30, 24], [70, 7]])
    result = match_result(pair, points0, points1, np.array([[0, 0], [1, 1], [2, 2]]), (100, 100), (100, 100))
    np.testing.assert_allclose(result.errors, [2, 4, np.hypot(20, 33)])
    assert result.keypoints == (4, 3)
    with pytest.raises(FrozenInstanceError):
        result.kind = "i"
    # within 3 px: 1 match of 3 keypoints in each image in the shared view
    assert result.matching_score == pytest.approx(1 / 3)
    assert [accuracy_at([result], pixels) for pixels in (1, 2, 3, 4)] == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3])
    figures = figures_of([result], np.array([[2.0]]))
    assert list(figures) == ["all"]  # sequences of a single kind are not split
    assert figures["all"]["correct matches"] == 1
    # corner error 2: the curve rises to 1 at 2 and stays there, so (1 + 1) / 3, (1 + 3) / 5, (1 + 8) / 10
    assert figures["all"]["AUC@3"] == pytest.approx(100 * 2 / 3)
    assert figures["all"]["AUC@5"] == pytest.approx(80)
    assert figures["all"]["AUC@10"] == pytest.approx(90)
    assert figures["all"]["corners within 3 px"] == 100


# two images of different sizes, the second 10 pixels to the left: each one's view is limited by the other's size
SHIFT = np.array([[1.0, 0, 10], [0, 1, 0], [0, 0, 1]])
SIZES = (100, 50), (60, 80)
POINTS0 = np.array([[20.0, 20], [45, 10], [52, 10], [30, 49]])  # the third is to the right of the second image
POINTS1 = np.array([[30.0, 20], [55, 10], [40, 51], [59.4, 10]])  # the third is below the first image
PARTNERS = np.array([[0, 0], [1, 1], [2, 3], [3, 2]])  # all within 3 px, but the last two leave the shared view


def test_the_shared_view_of_each_image_is_bounded_by_the_other():
    pair = HomographyPair(View(Path("1"), "1"), View(Path("2"), "2"), SHIFT, "v")
    result = match_result(pair, POINTS0, POINTS1, PARTNERS, *SIZES)
    np.testing.assert_allclose(result.errors, [0, 0, 2.6, 2])
    # 3 and 3 keypoints in the shared view, two of each with a match and with a keypoint near them
    assert result.matching_score == pytest.approx(2 / 3)
    assert result.repeatability == pytest.approx(4 / 6)


def test_sizes_of_images_are_read_from_the_files(tmp_path):
    (tmp_path / "v_sizes").mkdir()
    for k, size in enumerate(SIZES, 1):
        Image.new("RGB", size).save(tmp_path / "v_sizes" / f"{k}.png")
    np.savetxt(tmp_path / "v_sizes" / "H_1_2", SHIFT)
    words = unit(np.random.default_rng(0), 4)
    words1 = np.empty_like(words)
    words1[PARTNERS[:, 1]] = words[PARTNERS[:, 0]]
    keypoints = {"v_sizes/1": POINTS0, "v_sizes/2": POINTS1}
    write_artifacts(tmp_path / "perfect", keypoints, {"v_sizes/1": words, "v_sizes/2": words1})
    figures = evaluate_homography(tmp_path, options_of(tmp_path)).results[0].figures["all"]
    assert figures["matching score"] == pytest.approx(200 / 3)
    assert figures["repeatability"] == pytest.approx(400 / 6)


def test_pairs_without_features_or_matches_count_as_zero():
    pair = HomographyPair(View(Path("1"), "1"), View(Path("2"), "2"), np.eye(3), "v")
    none, some = np.zeros((0, 2)), np.array([[1.0, 1]])
    empty = match_result(pair, none, none, np.zeros((0, 2), int), SIZE, SIZE)
    full = match_result(pair, some, some, np.array([[0, 0]]), SIZE, SIZE)
    assert accuracy_at([empty, full], 3) == 0.5
    assert empty.repeatability == empty.matching_score == 0
    figures = figures_of([empty, full], np.array([[np.inf], [0.0]]))
    assert figures["all"]["failures"] == 1
    assert figures["all"]["AUC@5"] == 50


def test_both_estimators_runs_and_json(planes, tmp_path, capsys):
    options = options_of(planes, estimator=("poselib", "pycolmap"), runs=2, threshold=(1.0, 3.0))
    options = replace(options, json=tmp_path / "h.json", plot=tmp_path / "mma.png")
    start = perf_counter()
    report = evaluate_homography(planes, options)
    seconds = report.results[0].figures["all"]["seconds per match"]
    assert 0 < 10 * seconds < perf_counter() - start
    assert [result.label for result in report.results] == ["perfect poselib", "perfect pycolmap"]
    assert "best by AUC@5 of the corner error over thresholds 1 3 px" in capsys.readouterr().out
    data = json.loads((tmp_path / "h.json").read_text())
    assert all(f"MMA@{pixels}" in data["results"][0]["figures"]["all"] for pixels in range(1, 11))
    assert data["pairs"][5] == ["v_view/1", "v_view/2"]
    assert np.array(data["results"][0]["corner errors"]).shape == (10, 2)
    assert [s["threshold"] for s in data["results"][1]["settings"]] == [1, 3]
    assert Image.open(tmp_path / "mma.png").size[0] > 100


def test_the_cache_file_of_d2net(planes, tmp_path):
    evaluate_homography(planes, options_of(planes, format="d2net", out=tmp_path))
    # read as in the D2-Net notebook
    i_err, v_err, (kinds, keypoints, matches) = np.load(tmp_path / "perfect.npy", allow_pickle=True)
    assert list(i_err) == list(v_err) == list(range(1, 16))
    assert i_err[1] == v_err[15] == 5  # sums over the pairs of a kind
    assert kinds.tolist() == ["i"] * 5 + ["v"] * 5
    assert keypoints[:7].tolist() == [150] * 7  # the first image of v_view follows the six of i_light
    assert matches[:5].tolist() == [150] * 5
    assert (matches[5:] == keypoints[7:]).all()
    assert len(keypoints) == 12
    with pytest.raises(EvaluationError, match="no such folder"):
        evaluate_homography(planes, options_of(planes, format="d2net", out=tmp_path / "none"))


def test_the_large_sequences_are_skipped_for_d2net(planes, tmp_path):
    (planes / "v_talent").mkdir()
    try:
        with pytest.raises(EvaluationError, match="v_talent contains no homographies"):
            evaluate_homography(planes, options_of(planes))
        report = evaluate_homography(planes, options_of(planes, format="d2net", out=tmp_path))
    finally:
        (planes / "v_talent").rmdir()
    assert "10 pairs" in report.title


def test_options_have_the_defaults_of_the_protocol_and_are_keyword_only():
    assert HomographyOptions().threshold == (1.0, 2.0, 3.0)
    with pytest.raises(TypeError):
        HomographyOptions((1.0,))
    with pytest.raises(FrozenInstanceError):
        HomographyOptions().n = 5
