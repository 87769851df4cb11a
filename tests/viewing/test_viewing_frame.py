"""The orientation of a model: up is where the photographers had it; far points and long cameras do no harm."""

from __future__ import annotations

import numpy as np
import pytest

from disk.viewing.frame import camera_length, look_from, near, upright_rotation


def camera(forward: list[float], up: list[float]) -> np.ndarray:
    """Right, down and forward of a level camera, as rows."""
    z = np.array(forward) / np.linalg.norm(forward)
    x = np.cross(z, up)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def random_rotation(seed: int) -> np.ndarray:
    Q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return Q * np.sign(np.linalg.det(Q))


ANGLES = np.linspace(0, 2 * np.pi, 8, endpoint=False)
ALL_AROUND = [camera([np.cos(a), np.sin(a), -0.8], [0, 0, 1]) for a in ANGLES]
ALIKE = [camera([1, 0.01 * a, -0.1], [0, 0, 1]) for a in ANGLES]


@pytest.mark.parametrize("cameras", [ALL_AROUND, ALIKE, ALL_AROUND[:1]], ids=["all around", "alike", "one"])
@pytest.mark.parametrize("seed", range(4))
def test_up_is_up_in_any_world(cameras: list[np.ndarray], seed: int) -> None:
    world = random_rotation(seed)  # x_world = world @ x
    R = upright_rotation(np.array([camera @ world.T for camera in cameras]))
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(R) > 0
    up = R @ world @ [0, 0, 1]
    # a single camera that looks down is the same as a level one in a tilted world
    assert up[2] > (0.9999 if cameras is ALL_AROUND else 0.99 if cameras is ALIKE else 0.75)


def test_a_drone_that_looks_straight_down() -> None:
    """The up vector of each camera is level, but the horizons do not lie along the vertical."""
    headings = [camera([0, 0, -1], [np.cos(a), np.sin(a), 0]) for a in (0, 0.1, np.pi / 2, 1.7)]
    R = upright_rotation(np.array(headings))
    assert abs((R @ [0, 0, 1])[2]) > 0.9


def test_without_cameras_nothing_is_rotated() -> None:
    np.testing.assert_array_equal(upright_rotation(np.zeros((0, 3, 3))), np.eye(3))


def test_a_few_far_points_are_skipped() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (1000, 3))
    points[:3] = 1000
    assert near(points, np.zeros((1, 3))).tolist() == [False] * 3 + [True] * 997
    assert not len(near(points[:0], np.zeros((1, 3))))


def test_cameras_are_not_longer_than_the_distance_to_their_neighbours() -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    apart, dense = (np.column_stack([np.linspace(-2, 2, n), np.zeros(n), np.zeros(n)]) for n in (3, 101))
    assert 0.04 <= camera_length(dense, points) < 0.05 < 0.2 < camera_length(apart, points) < 0.3
    assert camera_length(np.zeros((2, 3)), points) > 0


def test_the_eye_is_on_the_side_of_the_cameras() -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    eye = look_from(points, np.array([[0.2, -5, 0], [-0.2, -5, 0]]))
    assert eye["y"] < -1
    assert abs(eye["x"]) < 0.2
    ring = 5 * np.column_stack([np.cos(ANGLES), np.sin(ANGLES), 0 * ANGLES])
    assert look_from(points, ring)["z"] > 0
