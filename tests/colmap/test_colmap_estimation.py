import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from disk.colmap.estimation import estimate_homography, estimate_relative_pose
from disk.geometry import robust
from disk.geometry.pose import rotation_error, translation_error

K0 = np.array([[700.0, 0, 320], [0, 710, 240], [0, 0, 1]])
K1 = np.array([[500.0, 0, 300], [0, 490, 200], [0, 0, 1]])
R = Rotation.from_rotvec([0.05, -0.3, 0.1]).as_matrix()
T = np.array([1.0, 0.2, -0.1])


def two_views(noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Matched pixels of 200 points, the first 60 of them wrong in the second image."""
    rng = np.random.default_rng(0)
    points = rng.uniform([-2, -2, 4], [2, 2, 9], (200, 3))
    p0, p1 = points @ K0.T, (points @ R.T + T) @ K1.T
    p0, p1 = p0[:, :2] / p0[:, 2:], p1[:, :2] / p1[:, 2:] + noise * rng.normal(size=(200, 2))
    p1[:60] = rng.uniform(0, 600, (60, 2))
    return p0, p1


def test_pose_agrees_with_the_truth_and_poselib():
    estimate = estimate_relative_pose(*two_views(0.3), K0, K1)
    peer = robust.estimate_relative_pose(*two_views(0.3), K0, K1)
    assert estimate is not None
    assert peer is not None
    assert rotation_error(estimate.R, R) < 0.3
    assert translation_error(estimate.t, T) < 1.5
    assert rotation_error(estimate.R, peer.R) < 0.3
    assert (estimate.t @ peer.t) > 0.999  # including the sign, and both of length 1
    assert estimate.inliers[60:].mean() > 0.9
    assert estimate.inliers[:60].mean() < 0.2


def test_same_seed_same_answer():
    first, second = (estimate_relative_pose(*two_views(0.5), K0, K1, seed=3) for _ in range(2))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.R, second.R)


def test_homography_agrees_with_the_truth():
    rng = np.random.default_rng(1)
    H = np.array([[1.1, 0.05, 12], [-0.03, 0.95, -7], [1e-4, -5e-5, 1]])
    p0 = rng.uniform(0, 600, (150, 2))
    p1 = cv2.perspectiveTransform(p0[:, None], H)[:, 0]
    p1[:50] = rng.uniform(0, 600, (50, 2))
    estimate = estimate_homography(p0, p1, threshold=2.0)
    assert estimate is not None
    np.testing.assert_allclose(estimate[0], H, atol=1e-5)
    assert estimate[1][50:].all()


def test_too_few_matches_give_none():
    p0, p1 = two_views(0.0)
    assert estimate_relative_pose(p0[:0], p1[:0], K0, K1) is None
    assert estimate_relative_pose(p0[:5], p1[:5], K0, K1) is None
    assert estimate_homography(p0[:3], p1[:3]) is None
    assert estimate_homography(np.ones((20, 2)), np.ones((20, 2))) is None
