import cv2
import kornia
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from skimage.transform import ProjectiveTransform

from disk.evaluation.metrics import (
    corner_error,
    covisible,
    matching_score,
    repeatability,
    symmetric_epipolar_distance,
    transfer_error,
    warp,
)

K0 = np.array([[700.0, 0, 320], [0, 710, 240], [0, 0, 1]])
K1 = np.array([[500.0, 0, 300], [0, 490, 200], [0, 0, 1]])
R = Rotation.from_rotvec([0.05, -0.3, 0.1]).as_matrix()
T = np.array([1.0, 0.2, -0.1])
H = np.array([[1.1, 0.05, 12], [-0.03, 0.95, -7], [1e-4, -5e-5, 1]])


def test_epipolar_distance_of_true_matches_is_zero():
    points = np.random.default_rng(0).uniform([-2, -2, 4], [2, 2, 9], (50, 3))
    p0, p1 = points @ K0.T, (points @ R.T + T) @ K1.T
    distance = symmetric_epipolar_distance(p0[:, :2] / p0[:, 2:], p1[:, :2] / p1[:, 2:], K0, K1, R, T)
    assert distance.max() < 1e-20


def test_epipolar_distance_by_hand():
    """Sideways motion: epipolar lines are rows, so both distances are the difference in y over the focal length."""
    K = np.array([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]])
    distance = symmetric_epipolar_distance(
        np.array([[10.0, 20.0]]), np.array([[70.0, 23.0]]), K, K, np.eye(3), np.array([5.0, 0, 0])
    )
    assert distance == pytest.approx([2 * 0.03**2])


def test_epipolar_distance_agrees_with_kornia():
    rng = np.random.default_rng(1)
    p0, p1 = rng.uniform(0, 600, (2, 40, 2))
    x0 = np.linalg.solve(K0, np.c_[p0, np.ones(40)].T).T[:, :2]
    x1 = np.linalg.solve(K1, np.c_[p1, np.ones(40)].T).T[:, :2]
    t = T / np.linalg.norm(T)
    E = np.cross(np.eye(3), t) @ R  # rows of [t]x^T are e_i x t, so this is -[t]x^T R = [t]x R up to sign
    peer = kornia.geometry.epipolar.symmetrical_epipolar_distance(
        *(torch.from_numpy(x)[None] for x in (x0, x1, E)), squared=True
    )[0]
    np.testing.assert_allclose(symmetric_epipolar_distance(p0, p1, K0, K1, R, T), peer.numpy(), rtol=1e-6)


def test_warp_agrees_with_opencv_and_scikit_image():
    points = np.random.default_rng(2).uniform(0, 600, (30, 2))
    np.testing.assert_allclose(warp(H, points), cv2.perspectiveTransform(points[:, None], H)[:, 0])
    np.testing.assert_allclose(warp(H, points), ProjectiveTransform(H)(points))


def test_warp_to_infinity():
    to_infinity = np.array([[1.0, 0, 0], [0, 1, 0], [-0.01, 0, 1]])
    assert np.isinf(warp(to_infinity, np.array([[100.0, 5]]))).all()
    assert corner_error(to_infinity, np.eye(3), (101, 50)) == float("inf")


def test_transfer_error_agrees_with_scikit_image():
    p0, p1 = np.random.default_rng(3).uniform(0, 600, (2, 20, 2))
    np.testing.assert_allclose(transfer_error(H, p0, p1), ProjectiveTransform(H).residuals(p0, p1))


def test_corner_error_by_hand():
    shifted = np.array([[1.0, 0, 3], [0, 1, 4], [0, 0, 1]])
    assert corner_error(shifted, np.eye(3), (640, 480)) == pytest.approx(5)
    stretched = np.diag([1.01, 1.0, 1.0])  # the two right corners move by 1.01 * 100 - 100
    assert corner_error(stretched, np.eye(3), (101, 51)) == pytest.approx(0.5)
    lower = np.diag([1.0, 1.1, 1.0])  # the two lower corners move by 1.1 * 50 - 50
    assert corner_error(lower, np.eye(3), (101, 51)) == pytest.approx(2.5)
    assert corner_error(-2 * H, H, (640, 480)) == pytest.approx(0)  # a homography has no scale
    assert corner_error(None, H, (640, 480)) == float("inf")


def test_covisible_by_hand():
    shift = np.array([[1.0, 0, 10], [0, 1, 0], [0, 0, 1]])
    x, y = [0.0, 89, 89.4, 89.5, 0, 0, 0, -10.5, -10.6], [0, 0, 0, 0, -0.6, 49.4, 49.5, 0, 0]
    points = np.stack([x, y], 1)
    assert covisible(shift, points, (100, 50)).tolist() == [True, True, True, False, False, True, False, True, False]


def test_repeatability_by_hand():
    shift = np.array([[1.0, 0, 10], [0, 1, 0], [0, 0, 1]])
    p0 = np.array([[0.0, 0], [20, 20], [40, 40], [95, 0]])  # the last leaves a 100 pixel wide image
    p1 = np.array([[10.0, 2], [30, 24], [70, 7]])
    seen0, seen1 = covisible(shift, p0, (100, 100)), covisible(np.linalg.inv(shift), p1, (100, 100))
    # within 3 px: p0[0] -> (10, 0) has p1[0]; back, p1[0] has p0[0]. 2 of 3 + 3 keypoints
    assert repeatability(shift, p0, p1, seen0, seen1, 3.0) == pytest.approx(2 / 6)
    # within 4 px, p0[1] and p1[1] too
    assert repeatability(shift, p0, p1, seen0, seen1, 4.0) == pytest.approx(4 / 6)


def test_repeatability_of_one_keypoint():
    one, seen = np.array([[5.0, 5]]), np.ones(1, bool)
    assert repeatability(np.eye(3), one, one + 1, seen, seen, 3.0) == 1


def test_repeatability_of_a_perfect_and_of_an_empty_detector():
    p0 = np.random.default_rng(4).uniform(100, 400, (5000, 2))
    p1, all_seen = warp(H, p0), np.ones(5000, bool)
    assert repeatability(H, p0, p1, all_seen, all_seen, 1e-6) == 1
    assert repeatability(H, p0, p1[:0], all_seen, all_seen[:0], 3.0) == 0


def test_matching_score_by_hand():
    assert matching_score(10, 40, 20) == pytest.approx((10 / 40 + 10 / 20) / 2)
    assert matching_score(0, 0, 0) == 0


def test_epipolar_distance_of_a_camera_that_did_not_move_is_zero():
    """It has no epipolar lines."""
    p0, p1 = np.random.default_rng(5).uniform(0, 600, (2, 10, 2))
    assert (symmetric_epipolar_distance(p0, p1, K0, K1, R, np.zeros(3)) == 0).all()
