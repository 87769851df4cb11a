"""Absolute poses compared with a known camera, and their standard deviations with the scatter of many draws."""

from __future__ import annotations

import numpy as np
import pytest

from disk.colmap.cameras import KnownCamera, simple_camera
from disk.colmap.localization import AbsolutePose, estimate_absolute_pose
from disk.geometry.pose import rotation_error

WIDTH, HEIGHT, FOCAL = 640, 480, 700.0
R = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
R = R * np.linalg.det(R)
T = np.array([0.3, -0.2, 5.0])
KNOWN = simple_camera(WIDTH, HEIGHT, FOCAL)


def view(points: int = 80, noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints, with (0, 0) at the centre of the first pixel, and their 3D points."""
    xyz = np.random.default_rng(1).uniform(-1, 1, (points, 3))
    seen = xyz @ R.T + T
    middle = [WIDTH / 2 - 0.5, HEIGHT / 2 - 0.5]
    keypoints = FOCAL * seen[:, :2] / seen[:, 2:] + middle
    return keypoints + np.random.default_rng(seed).normal(size=keypoints.shape) * noise, xyz


def check(pose: AbsolutePose | None, tolerance: float) -> None:
    assert pose is not None
    assert np.linalg.norm(pose.centre + R.T @ T) < 5 * tolerance
    assert rotation_error(pose.R, R) < np.degrees(tolerance)


@pytest.mark.parametrize(
    ("camera", "focal"),
    [
        (KNOWN, "known"),
        (simple_camera(WIDTH, HEIGHT, 730.0), "guess"),
        (simple_camera(WIDTH, HEIGHT, 2000.0), "unknown"),
    ],
)
def test_the_true_pose_among_wrong_matches(camera: KnownCamera, focal: str) -> None:
    keypoints, xyz = view()
    keypoints[:30] = np.random.default_rng(2).uniform(0, 480, (30, 2))
    pose = estimate_absolute_pose(keypoints, xyz, camera, focal, max_error=4.0)
    check(pose, 1e-4)
    assert pose.inliers[30:].all()
    assert pose.inliers[:30].sum() <= 2
    assert pose.error < 1e-3
    assert pose.camera.focal_length == pytest.approx(FOCAL, rel=1e-4)
    w, x, y, z = pose.quaternion
    assert pose.R[0, 0] == pytest.approx(w * w + x * x - y * y - z * z)


@pytest.mark.parametrize("focal", ["known", "unknown"])
@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_standard_deviations_are_those_of_many_draws(focal: str, noise: float) -> None:
    poses = [estimate_absolute_pose(*view(noise=noise, seed=seed), KNOWN, focal, max_error=8.0) for seed in range(60)]
    away = np.array([pose.centre + R.T @ T for pose in poses])
    turned = np.array([rotation_error(pose.R, R) for pose in poses])
    position, rotation = np.sqrt((away**2).sum(1).mean()), np.sqrt((turned**2).mean())
    assert np.median([pose.position_sigma for pose in poses]) == pytest.approx(position, rel=0.3)
    assert np.median([pose.rotation_sigma for pose in poses]) == pytest.approx(rotation, rel=0.3)


def test_too_few_or_unrelated_matches_give_no_pose() -> None:
    keypoints, xyz = view()
    assert estimate_absolute_pose(keypoints[:3], xyz[:3], KNOWN, max_error=4.0) is None
    random = np.random.default_rng(0).uniform(0, 480, keypoints.shape)
    pose = estimate_absolute_pose(random, xyz, KNOWN, max_error=4.0)
    assert pose is None or pose.inliers.sum() < 10
