from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import poselib
import pytest
from scipy.spatial.transform import Rotation

from disk.geometry.pose import rotation_error, translation_error
from disk.geometry.robust import estimate_fundamental, estimate_homography, estimate_relative_pose

K0 = np.array([[700.0, 0, 320], [0, 710, 240], [0, 0, 1]])
K1 = np.array([[500.0, 0, 300], [0, 490, 200], [0, 0, 1]])
R = Rotation.from_rotvec([0.05, -0.3, 0.1]).as_matrix()
T = np.array([1.0, 0.2, -0.1])


def two_views(n: int = 200, outliers: int = 60, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Matched pixels of random points, the first `outliers` of them wrong in the second image."""
    rng = np.random.default_rng(0)
    points = rng.uniform([-2, -2, 4], [2, 2, 9], (n, 3))
    p0 = points @ K0.T
    p1 = (points @ R.T + T) @ K1.T
    p0, p1 = p0[:, :2] / p0[:, 2:], p1[:, :2] / p1[:, 2:]
    p1 = p1 + noise * rng.normal(size=p1.shape)
    p1[:outliers] = rng.uniform(0, 600, (outliers, 2))
    return p0, p1


def test_finds_the_pose_among_outliers():
    estimate = estimate_relative_pose(*two_views(), K0, K1, threshold=1.0)
    assert estimate is not None
    assert rotation_error(estimate.R, R) < 0.3
    assert translation_error(estimate.t, T) < 1.5
    assert abs(np.linalg.norm(estimate.t) - 1) < 1e-12
    assert estimate.inliers[60:].mean() > 0.95
    assert estimate.inliers[:60].mean() < 0.2


def test_agrees_with_opencv():
    p0, p1 = two_views(noise=0.0)
    normalised = [cv2.undistortPoints(p[:, None], K, None)[:, 0] for p, K in ((p0, K0), (p1, K1))]
    E, mask = cv2.findEssentialMat(*normalised, np.eye(3), threshold=1e-3, prob=0.9999)
    _, R_cv, t_cv, _ = cv2.recoverPose(E, *normalised, np.eye(3), mask=mask)
    estimate = estimate_relative_pose(p0, p1, K0, K1)
    assert estimate is not None
    assert rotation_error(estimate.R, R_cv) < 0.05
    assert translation_error(estimate.t, t_cv[:, 0]) < 0.1


def test_same_seed_same_answer():
    first, second = (estimate_relative_pose(*two_views(), K0, K1, seed=5) for _ in range(2))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.R, second.R)
    np.testing.assert_array_equal(first.inliers, second.inliers)


def test_scaling_pixels_camera_and_threshold_together_changes_nothing():
    p0, p1 = two_views()
    S = np.diag([2.0, 2.0, 1.0])  # an exact power of two, so that rounding is the same
    small = estimate_relative_pose(p0, p1, K0, K1, threshold=1.0)
    large = estimate_relative_pose(2 * p0, 2 * p1, S @ K0, S @ K1, threshold=2.0)
    assert small is not None
    assert large is not None
    np.testing.assert_allclose(large.R, small.R, atol=1e-9)
    np.testing.assert_array_equal(large.inliers, small.inliers)


def test_no_pose_from_too_few_matches():
    p0, p1 = two_views()
    assert estimate_relative_pose(p0[:0], p1[:0], K0, K1) is None
    assert estimate_relative_pose(p0[:5], p1[:5], K0, K1) is None


def test_no_pose_supported_only_by_its_own_five_matches():
    rng = np.random.default_rng(3)
    p0, p1 = rng.uniform(0, 600, (2, 8, 2))
    assert estimate_relative_pose(p0, p1, K0, K1, threshold=0.01) is None


def test_homography_agrees_with_the_truth_and_opencv():
    rng = np.random.default_rng(1)
    H = np.array([[1.1, 0.05, 12], [-0.03, 0.95, -7], [1e-4, -5e-5, 1]])
    p0 = rng.uniform(0, 600, (150, 2))
    p1 = cv2.perspectiveTransform(p0[:, None], H)[:, 0]
    p1[:50] = rng.uniform(0, 600, (50, 2))
    estimate = estimate_homography(p0, p1, threshold=2.0)
    assert estimate is not None
    np.testing.assert_allclose(estimate[0], H, atol=1e-6)
    assert estimate[1][50:].all()
    peer, _ = cv2.findHomography(p0, p1, cv2.RANSAC, 2.0)
    np.testing.assert_allclose(estimate[0], peer, atol=1e-4)


def test_no_homography_from_three_points_or_from_coinciding_ones():
    p = np.random.default_rng(0).uniform(0, 100, (3, 2))
    assert estimate_homography(p, p) is None
    assert estimate_homography(np.ones((20, 2)), np.ones((20, 2))) is None


def test_the_fundamental_matrix_separates_correct_matches_from_wrong_ones():
    """Compared with the truth: Sampson errors of the known geometry are within the threshold, or far from it."""
    p0, p1 = two_views(noise=0.3)
    inliers = estimate_fundamental(p0, p1, threshold=2.0)
    assert inliers.shape == (200,)
    assert inliers[60:].all()
    assert inliers[:60].mean() < 0.2
    # with noise of 0.3 px about one match in two is closer than 0.2 px
    assert 0.2 < estimate_fundamental(p0, p1, threshold=0.2)[60:].mean() < 0.8


def test_a_fundamental_matrix_needs_more_matches_than_its_minimal_sample():
    p0, p1 = two_views(outliers=0, noise=0.0)
    for count in (0, 7):
        assert estimate_fundamental(p0[:count], p1[:count]).tolist() == [False] * count
    assert estimate_fundamental(p0[:8], p1[:8]).all()


def test_the_smallest_number_of_matches_for_a_pose_and_a_homography():
    """A pose needs one more than its minimal sample, as any five agree with their own pose; a homography needs four."""
    p0, p1 = two_views(outliers=0, noise=0.0)
    estimate = estimate_relative_pose(p0[:6], p1[:6], K0, K1)
    assert estimate is not None
    assert rotation_error(estimate.R, R) < 1e-3
    assert estimate.inliers.sum() == 6
    corners = np.array([[0.0, 0], [100, 0], [0, 100], [100, 100]])
    found = estimate_homography(corners, 2 * corners + 5)
    assert found is not None
    np.testing.assert_allclose(found[0], [[2, 0, 5], [0, 2, 5], [0, 0, 1]], atol=1e-9)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replaces PoseLib's estimators: records the options, and returns a given result."""
    state: dict[str, Any] = {"inliers": 20, "found": np.eye(3)}

    def estimate(p0: np.ndarray, p1: np.ndarray, *others: Any) -> tuple[Any, dict[str, Any]]:
        state["options"] = others[-2]
        return state["found"], {"inliers": np.arange(len(p0)) < state["inliers"]}

    for name in ("relative_pose", "homography", "fundamental"):
        monkeypatch.setattr(poselib, f"estimate_{name}", estimate)
    return state


def pose(t: Any = (0.0, 0, 2), R: Any = np.eye(3)) -> SimpleNamespace:
    return SimpleNamespace(R=np.array(R), t=np.array(t))


def test_the_estimators_search_as_documented_by_default(told: dict[str, Any]):
    points = np.zeros((20, 2))
    usual = {"success_prob": 0.9999, "max_iterations": 10_000, "min_iterations": 1000, "seed": 0}
    other = {"success_prob": 0.9, "max_iterations": 500, "min_iterations": 500, "seed": 3}
    changes: dict[str, Any] = {"threshold": 0.25, "confidence": 0.9, "iterations": 500, "seed": 3}
    for estimate, cameras, name, threshold, found in (
        (estimate_relative_pose, (K0, K1), "max_epipolar_error", 1.0, pose()),
        (estimate_homography, (), "max_reproj_error", 3.0, np.eye(3)),
        (estimate_fundamental, (), "max_epipolar_error", 1.0, np.eye(3)),
    ):
        told["found"] = found
        estimate(points, points, *cameras)
        assert told["options"] == {name: threshold, **usual}
        estimate(points, points, *cameras, **changes)
        assert told["options"] == {name: 0.25, **other}


def test_a_pose_has_a_direction_of_length_one_or_none(told: dict[str, Any]):
    points = np.zeros((20, 2))
    for t, direction in (((0.0, 0, 2), [0, 0, 1]), ((0.0, 0, 0), [0, 0, 0])):
        told["found"] = pose(t)
        found = estimate_relative_pose(points, points, K0, K1)
        assert found is not None
        assert found.t.tolist() == direction


@pytest.mark.parametrize(
    ("inliers", "found"),
    [(5, pose()), (0, pose()), (20, pose(t=(np.nan, 0, 0))), (20, pose(R=np.full((3, 3), np.inf)))],
)
def test_a_pose_without_support_or_numbers_is_none(inliers: int, found: SimpleNamespace, told: dict[str, Any]):
    told.update(inliers=inliers, found=found)
    assert estimate_relative_pose(np.zeros((20, 2)), np.zeros((20, 2)), K0, K1) is None


@pytest.mark.parametrize(
    ("inliers", "found"),
    [(3, np.eye(3)), (0, np.eye(3)), (20, np.full((3, 3), np.nan)), (20, np.diag([1.0, 1, 0])),
     (20, np.array([[1.0, 0, np.inf], [0, 1, 0], [0, 0, 1]]))],
)  # fmt: skip
def test_a_homography_without_support_or_numbers_is_none(inliers: int, found: np.ndarray, told: dict[str, Any]):
    told.update(inliers=inliers, found=found)
    assert estimate_homography(np.zeros((20, 2)), np.zeros((20, 2))) is None


def test_a_fundamental_matrix_that_is_not_finite_has_no_inliers(told: dict[str, Any]):
    points = np.zeros((20, 2))
    told["inliers"] = 12
    assert estimate_fundamental(points, points).sum() == 12
    told["found"] = np.full((3, 3), np.nan)
    assert not estimate_fundamental(points, points).any()
