import math

import cv2
import kornia
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from scipy.special import gammaln, logsumexp
from scipy.stats import binom

from disk.geometry.camera import Camera, project
from disk.geometry.epipolar import chance_of_inlier, epipolar_distance, essential, fundamental, log10_false_alarms


def two_cameras(seed: int = 0) -> tuple[Camera, Camera]:
    rng = np.random.default_rng(seed)
    cameras = []
    for _ in range(2):
        K = np.array([[rng.uniform(300, 900), 0, 320], [0, rng.uniform(300, 900), 240], [0, 0, 1]])
        R = Rotation.from_rotvec(rng.normal(size=3) * 0.3).as_matrix()
        parts = (K, R, rng.normal([0, 0, 5]))
        cameras.append(Camera(*(torch.from_numpy(np.asarray(part)) for part in parts)))
    return cameras[0], cameras[1]


def test_projections_of_a_point_lie_on_each_others_lines():
    camera1, camera2 = two_cameras()
    points = torch.from_numpy(np.random.default_rng(1).normal(size=(30, 3)))
    p1, p2 = project(camera1, points)[0], project(camera2, points)[0]
    F = fundamental(camera1, camera2)
    assert epipolar_distance(F, p1, p2).diagonal().max() < 1e-6
    assert epipolar_distance(F.T, p2, p1).diagonal().max() < 1e-6
    # and other points do not
    assert epipolar_distance(F, p1, p2).median() > 5


def test_sideways_motion_by_hand():
    """A camera that moves along x has horizontal lines: the distance is the difference in y."""
    K = torch.tensor([[500.0, 0, 100], [0, 500, 100], [0, 0, 1]], dtype=torch.float64)
    still = Camera(K, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    moved = Camera(K, still.R, torch.tensor([1.0, 0, 0], dtype=torch.float64))
    p1 = torch.tensor([[10.0, 20], [50, 70]], dtype=torch.float64)
    p2 = torch.tensor([[30.0, 25], [0, 70], [99, 0]], dtype=torch.float64)
    expected = torch.tensor([[5.0, 50, 20], [45, 0, 70]], dtype=torch.float64)
    torch.testing.assert_close(epipolar_distance(fundamental(still, moved), p1, p2), expected)


def test_fundamental_agrees_with_kornia_up_to_scale():
    camera1, camera2 = two_cameras(2)
    projections = [(c.K @ torch.cat([c.R, c.t[:, None]], 1))[None] for c in (camera1, camera2)]
    expected = kornia.geometry.epipolar.fundamental_from_projections(*projections)[0]
    ours = fundamental(camera1, camera2)
    ours, expected = ours / ours.norm(), expected / expected.norm()
    torch.testing.assert_close(ours * torch.sign((ours * expected).sum()), expected, atol=1e-9, rtol=1e-6)


def test_distance_agrees_with_opencv_lines():
    F = fundamental(*two_cameras(3))
    rng = np.random.default_rng(4)
    p1, p2 = rng.uniform(0, 640, (7, 2)), rng.uniform(0, 640, (5, 2))
    lines = cv2.computeCorrespondEpilines(p1[:, None], 1, F.numpy())[:, 0]  # normalised to a unit normal
    expected = np.abs(lines[:, None, :2] @ p2.T + lines[:, 2:, None])[:, 0]
    ours = epipolar_distance(F, torch.from_numpy(p1), torch.from_numpy(p2)).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-3)


def test_essential_has_two_equal_singular_values():
    R = torch.from_numpy(Rotation.from_rotvec([0.1, -0.4, 0.2]).as_matrix())
    t = torch.tensor([1.0, 2, -2], dtype=torch.float64)
    singular = torch.linalg.svdvals(essential(R, t))
    torch.testing.assert_close(singular, torch.tensor([3.0, 3, 0], dtype=torch.float64))


def test_the_epipole_has_distance_zero_not_nan():
    F = torch.tensor([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # epipole at infinity along x
    F_finite = torch.tensor([[0.0, -1, 20], [1, 0, -10], [-20, 10, 0]])  # both epipoles at (10, 20)
    points = torch.tensor([[10.0, 20], [3, 4]])
    assert epipolar_distance(F_finite, points, points)[0].tolist() == [0, 0]
    assert torch.isfinite(epipolar_distance(F, points, points)).all()


@example(142, 0.78125, 0.001)
@given(st.integers(9, 3000), st.floats(0, 1), st.floats(1e-3, 0.2))
def test_false_alarms_are_a_bound_on_the_tail_of_the_binomial_distribution(n: int, share: float, chance: float):
    """Each of the C(n, 7) samples proposes three geometries, that the other n - 7 matches join by chance."""
    k = 8 + round(share * (n - 8))
    log10_samples = (gammaln(n + 1) - gammaln(8) - gammaln(n - 6)) / math.log(10)
    found = log10_false_alarms(n, k, chance)
    tail = logsumexp(binom.logpmf(np.arange(k - 7, n - 6), n - 7, chance))  # scipy's own tail loses digits and ends
    expected = math.log10(3) + log10_samples + tail / math.log(10)
    assert found > expected - 1e-6
    # tight for rare events, but for the factors (n - 7) and (1 - chance)^(n - k)
    assume(k > 7 + 2 * chance * (n - 7))
    assert found < expected + math.log10(n - 7) - (n - k) * math.log10(1 - chance) + 1e-6


def test_the_seven_of_the_sample_prove_nothing():
    for matches in (0, 7, 500):
        assert log10_false_alarms(matches, min(matches, 7), 0.01) == math.inf
    assert log10_false_alarms(20, 15, 0.01) < 0 < log10_false_alarms(500, 15, 0.01)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (300, 900), (1, 1)])
def test_chance_of_an_inlier_against_random_lines(width: int, height: int):
    rng = np.random.default_rng(0)
    corner = np.array([width, height])
    on_line, points = rng.uniform(size=(2, 100_000, 2)) * corner
    angle = rng.uniform(0, np.pi, 100_000)
    distance = np.abs(((points - on_line) * np.stack([np.sin(angle), np.cos(angle)], 1)).sum(1))
    share = (distance < 4).mean()
    assert share <= chance_of_inlier(width, height, 4) < 3 * share
