import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from skimage.transform import estimate_transform

from disk.geometry.pose import align_similarity, rotation_error, translation_error


@given(angle=st.floats(0, 180), seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_rotation_error_is_the_full_angle(angle: float, seed: int):
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=3)
    turn = Rotation.from_rotvec(axis / np.linalg.norm(axis) * np.radians(angle))
    R = Rotation.from_rotvec(rng.normal(size=3))
    assert rotation_error((turn * R).as_matrix(), R.as_matrix()) == pytest.approx(angle, abs=1e-6)


def test_small_rotations_are_not_lost_in_rounding():
    R = Rotation.from_rotvec([1e-9, 0, 0]).as_matrix()
    assert rotation_error(R, np.eye(3)) == pytest.approx(np.degrees(1e-9), rel=1e-6)


def test_translation_error_by_hand():
    x, y = np.array([1.0, 0, 0]), np.array([0.0, 1, 0])
    assert translation_error(x, 5 * x) == 0
    assert translation_error(-x, x) == 0  # the sign does not count
    assert translation_error(x, y) == pytest.approx(90)
    assert translation_error(x + y, x) == pytest.approx(45)
    assert translation_error(y - x, x) == pytest.approx(45)


def test_translation_error_without_a_direction():
    x = np.array([1.0, 0, 0])
    assert translation_error(x, 0 * x) == 0
    assert translation_error(0 * x, x) == 90


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_similarity_agrees_with_scikit_image(noise: float):
    rng = np.random.default_rng(0)
    src = rng.normal(size=(30, 3))
    R = Rotation.from_rotvec([0.3, -1.2, 0.4]).as_matrix()
    dst = 2.5 * src @ R.T + [1, -2, 3] + noise * rng.normal(size=(30, 3))
    scale, rotation, translation = align_similarity(src, dst)
    peer = estimate_transform("similarity", src, dst)
    np.testing.assert_allclose(scale * rotation, peer.params[:3, :3], atol=1e-9)
    np.testing.assert_allclose(translation, peer.params[:3, 3], atol=1e-9)
    if not noise:
        assert scale == pytest.approx(2.5)
        np.testing.assert_allclose(rotation, R, atol=1e-9)


def test_similarity_never_reflects():
    src = np.random.default_rng(1).normal(size=(20, 3))
    _, R, _ = align_similarity(src, src * [1, 1, -1])
    assert np.linalg.det(R) == pytest.approx(1)


def test_similarity_of_coplanar_points_and_of_too_few():
    flat = np.random.default_rng(2).normal(size=(10, 3)) * [1, 1, 0]
    scale, R, t = align_similarity(flat, flat * 2 + 1)
    np.testing.assert_allclose(scale * flat @ R.T + t, flat * 2 + 1, atol=1e-9)
    triangle = align_similarity(flat[:3], flat[:3] * 2 + 1)
    assert triangle[0] == pytest.approx(2)
    with pytest.raises(ValueError, match="3 points"):
        align_similarity(flat[:2], flat[:2])
    with pytest.raises(ValueError, match="more than one place"):
        align_similarity(np.ones((5, 3)), flat[:5])
