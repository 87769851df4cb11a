from dataclasses import FrozenInstanceError

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from disk.geometry.camera import Camera, project, relative_pose, unproject


def random_camera(rng: np.random.Generator) -> Camera:
    K = np.array([[rng.uniform(300, 900), 0, 320], [0, rng.uniform(300, 900), 240], [0, 0, 1]])
    R = Rotation.from_rotvec(rng.normal(size=3) * 0.3).as_matrix()
    return Camera(*(torch.from_numpy(np.asarray(part)) for part in (K, R, rng.normal([0, 0, 5]))))


def test_by_hand():
    K = torch.tensor([[100.0, 0, 50], [0, 200, 40], [0, 0, 1]])
    R = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # a quarter turn about the optical axis
    camera = Camera(K, R, torch.tensor([0.0, 0, 2]))
    pixels, depth = project(camera, torch.tensor([[1.0, 0.5, 2.0]]))
    # R X + t = (-0.5, 1, 4); u = 100 * -0.5 / 4 + 50, v = 200 * 1 / 4 + 40
    torch.testing.assert_close(pixels, torch.tensor([[37.5, 90.0]]))
    torch.testing.assert_close(depth, torch.tensor([4.0]))


def test_agrees_with_opencv():
    rng = np.random.default_rng(0)
    camera, points = random_camera(rng), rng.normal(size=(20, 3))
    expected, _ = cv2.projectPoints(
        points, cv2.Rodrigues(camera.R.numpy())[0], camera.t.numpy(), camera.K.numpy(), None
    )
    np.testing.assert_allclose(project(camera, torch.from_numpy(points))[0].numpy(), expected[:, 0], atol=1e-9)


def test_points_behind_the_camera_have_negative_depth():
    camera = Camera(torch.eye(3), torch.eye(3), torch.zeros(3))
    _, depth = project(camera, torch.tensor([[0.0, 0, -3], [0, 0, 2]]))
    assert depth.tolist() == [-3, 2]


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_unproject_inverts_project(seed: int):
    rng = np.random.default_rng(seed)
    camera, points = random_camera(rng), torch.from_numpy(rng.normal(size=(10, 3)))
    torch.testing.assert_close(unproject(camera, *project(camera, points)), points, atol=1e-6, rtol=1e-6)


def test_relative_pose_carries_points_from_one_camera_to_the_other():
    rng = np.random.default_rng(1)
    camera1, camera2 = random_camera(rng), random_camera(rng)
    points = torch.from_numpy(rng.normal(size=(10, 3)))
    R, t = relative_pose(camera1, camera2)
    in_camera1 = points @ camera1.R.T + camera1.t
    torch.testing.assert_close(in_camera1 @ R.T + t, points @ camera2.R.T + camera2.t)


def test_to_changes_the_precision():
    camera = random_camera(np.random.default_rng(0)).to(dtype=torch.float32)
    assert camera.K.dtype == camera.R.dtype == camera.t.dtype == torch.float32


def test_the_centre_is_the_origin_of_the_camera():
    camera = random_camera(np.random.default_rng(2))
    torch.testing.assert_close(camera.R @ camera.centre + camera.t, torch.zeros(3, dtype=torch.float64))


def test_a_camera_matrix_has_no_scale():
    rng = np.random.default_rng(3)
    camera, points = random_camera(rng), torch.from_numpy(rng.normal(size=(10, 3)))
    scaled = Camera(2 * camera.K, camera.R, camera.t)
    torch.testing.assert_close(project(scaled, points)[0], project(camera, points)[0])
    torch.testing.assert_close(unproject(scaled, *project(camera, points)), points)


def test_a_camera_is_frozen():
    camera = random_camera(np.random.default_rng(4))
    with pytest.raises(FrozenInstanceError):
        camera.t = camera.t + 1
