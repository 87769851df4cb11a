import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_world import make_world, unit, write_artifacts

from disk.errors import DiskError
from disk.evaluation.ground_truth import read_pose_pairs
from disk.evaluation.options import PoseOptions
from disk.evaluation.pose import evaluate_pose
from disk.evaluation.poses import Outcome, Setting, best_of, figures_of, label_of, measure, recall_curve
from disk.evaluation.sources import open_sources

QUICK = {"threshold": (1.0,), "ratio": (0.9,)}


def options_of(world, **changes: object) -> PoseOptions:
    return PoseOptions(**{"features": (world.artifacts,), **QUICK, **changes})


def outcomes_of(world, **changes: object) -> dict:
    options = options_of(world, **changes)
    return measure(open_sources(options)[0], read_pose_pairs(world.pairs, world.images), options)


def test_a_perfect_matcher_scores_100(world):
    report = evaluate_pose(world.pairs, world.images, options_of(world))
    figures = report.results[0].figures[""]
    for name in ("AUC@5", "AUC@10", "AUC@20", "mAA(10)", "precision"):
        assert figures[name] == pytest.approx(100, abs=0.1), name
    assert figures["failures"] == 0
    assert figures["matches"] == figures["inliers"] == 80


def test_a_random_matcher_scores_near_zero(world):
    rng = np.random.default_rng(1)
    keypoints = {name: rng.uniform([0, 0], [640, 480], (200, 2)) for name in world.names}
    descriptors = {name: unit(rng, 200) for name in world.names}
    write_artifacts(world.root / "random", keypoints, descriptors)
    figures = figures_of(*outcomes_of(world, features=(world.root / "random",), ratio=(1.0,)).values())
    assert figures["AUC@10"] < 5
    assert figures["mAA(10)"] < 10
    assert figures["precision"] < 15  # a band around the epipolar line, across the whole image


def test_no_matches_at_all_are_failures(world):
    empty = {name: np.zeros((0, 2)) for name in world.names}
    write_artifacts(world.root / "empty", empty, {name: np.zeros((0, 32)) for name in world.names})
    figures = figures_of(*outcomes_of(world, features=(world.root / "empty",)).values())
    assert figures["failures"] == 6
    assert figures["AUC@20"] == figures["precision"] == figures["matches"] == figures["inliers"] == 0


def test_resizing_images_and_scaling_K_changes_no_pose(tmp_path):
    small, large = make_world(tmp_path / "small", noise=0.5), make_world(tmp_path / "large", scale=2, noise=0.5)
    (outcome,) = outcomes_of(small, threshold=(1.0,)).values()
    (doubled,) = outcomes_of(large, threshold=(2.0,)).values()
    assert outcome.errors.max() > 0.05  # the noise has an effect
    np.testing.assert_allclose(doubled.errors, outcome.errors, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(doubled.inliers, outcome.inliers)


def test_the_order_of_pairs_changes_no_figure(tmp_path):
    world = make_world(tmp_path / "world", noise=1.0)
    before = next(iter(outcomes_of(world).values()))
    lines = world.pairs.read_text().splitlines()
    order = [3, 0, 5, 1, 4, 2]
    world.pairs.write_text("\n".join(lines[i] for i in order))
    after = next(iter(outcomes_of(world).values()))
    np.testing.assert_array_equal(after.errors, before.errors[order])
    for name, value in figures_of(before).items():
        assert figures_of(after)[name] == pytest.approx(value, rel=1e-12), name


def test_the_number_of_workers_changes_no_figure(tmp_path):
    world = make_world(tmp_path / "world", noise=1.0)
    alone, together = outcomes_of(world, runs=2), outcomes_of(world, runs=2, workers=2)
    assert len(alone) > 0
    for setting in alone:
        np.testing.assert_array_equal(alone[setting].errors, together[setting].errors)
        np.testing.assert_array_equal(alone[setting].inliers, together[setting].inliers)


def test_both_estimators_agree_on_clean_matches(world):
    outcomes = outcomes_of(world, estimator=("poselib", "pycolmap"))
    assert [setting.estimator for setting in outcomes] == ["poselib", "pycolmap"]
    for outcome in outcomes.values():
        assert outcome.errors.max() < 0.05


def test_the_best_setting_is_reported(tmp_path, capsys):
    world = make_world(tmp_path / "world", noise=0.8)
    json_file = tmp_path / "figures.json"
    options = options_of(world, threshold=(0.01, 2.0), ratio=(0.5, 0.9), json=json_file)
    report = evaluate_pose(world.pairs, world.images, options)
    assert "best by AUC@10 over ratios 0.5 0.9 and thresholds 0.01 2 px" in capsys.readouterr().out
    (result,) = json.loads(json_file.read_text())["results"]
    assert len(result["settings"]) == 4
    assert {(s["ratio"], s["threshold"]) for s in result["settings"]} == {(r, t) for r in (0.5, 0.9) for t in (0.01, 2)}
    assert report.results[0].figures[""]["AUC@10"] == max(s["AUC@10"] for s in result["settings"])
    assert report.results[0].figures[""]["threshold"] == 2
    assert len(result["errors"]) == 6
    assert json.loads(json_file.read_text())["pairs"][1] == ["v0", "v2"]


def test_runs_are_pooled(tmp_path):
    world = make_world(tmp_path / "world", noise=1.0)
    (once,), (thrice,) = outcomes_of(world).values(), outcomes_of(world, runs=3).values()
    assert len(thrice.errors) == 18
    np.testing.assert_array_equal(thrice.errors[::3], once.errors)  # pair by pair, the first run is the same
    assert thrice.errors.reshape(6, 3).std(axis=1).max() > 0


def test_several_methods_are_columns_of_one_table(world, tmp_path, capsys):
    plot = tmp_path / "curves.svg"
    options = options_of(world, method=("sift",), estimator=("poselib", "pycolmap"), plot=plot)
    report = evaluate_pose(world.pairs, world.images, options)
    labels = [result.label for result in report.results]
    assert labels == ["sift poselib", "sift pycolmap", "perfect poselib", "perfect pycolmap"]
    printed = capsys.readouterr().out
    assert all(label in printed for label in labels)
    assert "relative pose, 6 pairs" in printed
    assert plot.read_text().startswith("<?xml")
    x, y = report.results[2].curve
    assert (x[0], x[-1], y[-1]) == (0, 20, 1)
    # black images have no features: nothing is found, and nothing fails
    assert report.results[0].figures[""]["failures"] == 6


def test_a_real_image_from_another_view(tmp_path):
    """RootSIFT on an image and the same image warped by K R K^-1: all stages of a run together find the rotation."""
    import cv2
    from evaluation_world import K, pair_line, photo
    from PIL import Image
    from scipy.spatial.transform import Rotation

    R = Rotation.from_rotvec([0.02, 0.05, 0.03]).as_matrix()
    image = cv2.resize(photo(360, 480), (640, 480))
    turned = cv2.warpPerspective(image, K @ R @ np.linalg.inv(K), (640, 480))
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(turned).save(tmp_path / "b.png")
    # the camera did not move: its direction is undefined, and only the rotation counts
    (tmp_path / "pairs.txt").write_text(pair_line("a", "b", K, K, R, np.zeros(3)))
    options = PoseOptions(method=("rootsift",), n=500, **QUICK)
    pairs = read_pose_pairs(tmp_path / "pairs.txt", tmp_path)
    (source,) = open_sources(options)
    source.prepare([pairs[0].view0, pairs[0].view1])
    outcome = measure(source, pairs, options)[Setting("poselib", 0.9, 1.0)]
    assert outcome.rotation[0] < 0.1
    assert outcome.translation[0] == 0
    assert outcome.inliers[0] > 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": ()}, "^threshold: "),
        ({"threshold": (0.0,)}, "^threshold: "),
        ({"estimator": ()}, "^estimator: "),
        ({"runs": 0}, "runs=0"),
        ({"workers": 0}, "workers=0"),
        ({"plot": Path("curves.xls")}, "plot=.curves.xls"),
        ({"json": Path("nowhere/at/all.json")}, "cannot write nowhere"),
    ],
)
def test_invalid_options(world, changes, message):
    with pytest.raises(DiskError, match=message):
        evaluate_pose(world.pairs, world.images, replace(options_of(world), **changes))


def outcome(errors: list[float]) -> Outcome:
    rotation = np.array(errors)
    return Outcome(rotation, rotation / 2, np.full(len(errors), 7.0), 20.0, 0.5, 0.1, 0.2)


def test_figures_by_hand():
    """One pair at 4 degrees and a failure: the curve rises to 1/2 at 4 and stays there."""
    figures = figures_of(outcome([4.0, np.inf]))
    for record in (outcome([4.0]), Setting("poselib", 0.9, 1.0)):
        with pytest.raises(FrozenInstanceError):
            record.matches = 5
    assert figures["AUC@5"] == pytest.approx(100 * (1 + 0.5) / 5)
    assert figures["AUC@10"] == pytest.approx(100 * (1 + 3) / 10)
    assert figures["AUC@20"] == pytest.approx(100 * (1 + 8) / 20)
    assert figures["mAA(10)"] == pytest.approx(30)  # a half below 5, ..., 10
    assert (figures["precision"], figures["matches"], figures["inliers"], figures["failures"]) == (50, 20, 7, 1)


def test_recall_counts_errors_up_to_and_including_a_value():
    x, y = recall_curve(np.array([0.0, 10.0, 20.0, np.inf]))
    assert (len(x), x[0], x[100], x[-1]) == (201, 0, 10, 20)
    assert (y[0], y[99], y[100], y[199], y[200]) == (0.25, 0.25, 0.5, 0.5, 0.75)


def test_the_best_is_that_of_auc_at_10(world, monkeypatch):
    """Of three outcomes, the second is best up to 9 and up to 11 degrees."""
    monkeypatch.setattr(
        "disk.evaluation.pose.measure",
        lambda *arguments: {
            Setting("poselib", 0.9, 1.0): outcome([8.9, np.inf, np.inf, np.inf]),
            Setting("poselib", 0.9, 2.0): outcome([7.0, 10.1, 10.1, 10.1]),
            Setting("poselib", 0.9, 3.0): outcome([9.5, 9.5, 9.5, 9.5]),
        },
    )
    figures = evaluate_pose(world.pairs, world.images, options_of(world)).results[0].figures[""]
    assert figures["threshold"] == 3


def test_the_note_names_only_settings_with_a_choice(world):
    assert best_of("AUC", (0.9,), (1.0,), "mnn") == ""
    assert best_of("AUC", (0.8, 0.9), (1.0,), "mnn") == "each column is the best by AUC over ratios 0.8 0.9"
    assert best_of("AUC", (0.8, 0.9), (1.0,), "lightglue") == ""
    assert best_of("AUC", (0.9,), (1.0, 2.0), "mnn") == "each column is the best by AUC over thresholds 1 2 px"
    (source,) = open_sources(options_of(world))
    assert label_of(source, "poselib", ("poselib",)) == "perfect"
    assert label_of(source, "poselib", ("poselib", "pycolmap")) == "perfect poselib"
