"""Rewards compared with hand-made geometry: a plane, an occluder, known cameras."""

from __future__ import annotations

import math

import pytest
import torch

from disk.geometry.camera import Camera
from disk.rewards.matches import SAME_DEPTH, matched_rewards, pair_rewards, reward
from disk.rewards.terms import RewardOptions, Terms

SIZE = 64
K = torch.tensor([[60.0, 0, 31.5], [0, 60.0, 31.5], [0, 0, 1]])
ORIGINAL = RewardOptions(visibility=False)


def camera(centre: tuple[float, float, float], degrees: float = 0.0) -> Camera:
    """Looks along +z, rotated about y."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    R = torch.tensor([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    return Camera(K, R, -R @ torch.tensor(centre, dtype=torch.float32))


def grid(step: int = 4) -> torch.Tensor:
    axis = torch.arange(2.0, SIZE, step)
    return torch.cartesian_prod(axis, axis)


def flat(depth: float) -> torch.Tensor:
    return torch.full((SIZE, SIZE), depth)


def test_plane_seen_by_a_camera_moved_sideways() -> None:
    """A wall at depth 2 seen from 0.2 to the right: every pixel moves left by f * 0.2 / 2 = 6."""
    kps1, kps2 = grid(), grid(2)
    reward = pair_rewards(kps1, kps2, camera((0, 0, 0)), camera((0.2, 0, 0)), flat(2.0), flat(2.0))
    shift = kps2[None] - (kps1[:, None] - torch.tensor([6.0, 0.0]))
    right = shift.norm(dim=2) < 1.5
    off_line = shift[..., 1].abs() >= 1.5
    # a point that moves right is behind the cameras; up to 2 * 1.5 px count as keypoint noise
    right_by = kps2[None, :, 0] - kps1[:, None, 0]
    before, behind_both = right_by < 3, right_by > 4.5
    expected = torch.where(right, 1.0, torch.where(off_line, -0.25, 0.0))
    assert right.any()
    assert torch.equal(reward[before], expected[before])
    assert (reward[behind_both] == -0.25).all()
    original = pair_rewards(kps1, kps2, camera((0, 0, 0)), camera((0.2, 0, 0)), flat(2.0), flat(2.0), ORIGINAL)
    assert torch.equal(original, expected)


def test_epipolar_reward_is_the_row_for_a_camera_moved_sideways() -> None:
    kps1, kps2 = grid(), grid(3)
    reward = pair_rewards(kps1, kps2, camera((0, 0, 0)), camera((0.2, 0, 0)), options=ORIGINAL)
    same_row = (kps1[:, None, 1] - kps2[None, :, 1]).abs() < 1.5
    assert torch.equal(reward, torch.where(same_row, 1.0, -0.25))


def test_points_behind_the_camera_are_wrong_matches() -> None:
    """Seen from further right, a point must move left: the rays of a match to the right meet behind the cameras."""
    kps1 = torch.tensor([[30.0, 20.0]])
    kps2 = torch.tensor([[10.0, 20.0], [30.0, 20.0], [50.0, 20.0]])
    cameras = camera((0, 0, 0)), camera((0.2, 0, 0))
    assert pair_rewards(kps1, kps2, *cameras).tolist() == [[1.0, 1.0, -0.25]]
    assert pair_rewards(kps1, kps2, *cameras, options=ORIGINAL).tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize("seed", range(4))
def test_cheirality_agrees_with_points_in_front_and_behind(seed: int) -> None:
    """Projections of points in front of both cameras never count as behind; near points behind both always do."""
    generator = torch.Generator().manual_seed(seed)
    one, two = camera((0, 0, 0)), camera((0.5, 0.1, 0.1), 10.0)
    points = torch.rand(200, 3, generator=generator) * torch.tensor([2.0, 2.0, 2.0]) + torch.tensor([-1.0, -1, 1])
    for sign in (1, -1):
        pixels = []
        for view in (one, two):
            seen = sign * points @ view.R.T + view.t
            assert ((seen[:, 2] * sign) > 0).all()
            homogeneous = seen @ view.K.T
            pixels.append(homogeneous[:, :2] / homogeneous[:, 2:])
        assert (matched_rewards(*pixels, one, two) == (1.0 if sign > 0 else -0.25)).all()


def test_occluded_points_get_no_reward() -> None:
    """A pole at depth 1 hides a wall at depth 2 in image 2; both reproject onto each other along the axis of motion."""
    # camera 2 is behind camera 1 on the optical axis: the principal point is the epipole
    one, two = camera((0, 0, 0)), camera((0, 0, -1.0))
    centre = torch.tensor([[31.0, 32.0]])
    wall, pole = flat(2.0), flat(3.0)
    pole[28:36, 28:36] = 1.5  # an object between the cameras and the wall, seen only by camera 2
    hidden = pair_rewards(centre, centre, one, two, wall, pole)
    original = pair_rewards(centre, centre, one, two, wall, pole, ORIGINAL)
    visible = pair_rewards(centre, centre, one, two, wall, flat(3.0))
    assert (hidden.item(), original.item(), visible.item()) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize(("far", "reward"), [(2.88, 0.0), (2.92, 1.0), (3.0, 1.0), (3.08, 1.0), (3.12, 0.0)])
def test_depths_agree_within_five_per_cent_seen_from_either_image(far: float, reward: float) -> None:
    """Camera 2 is 1 behind camera 1, so a surface at depth 2 is at depth 3.

    A surface at 3.12 or 2.88 there is within 5 % of that, but 2.12 or 1.88 is not within 5 % of 2 in camera 1.
    """
    one, two = camera((0, 0, 0)), camera((0, 0, -1.0))
    centre = torch.tensor([[31.0, 32.0]])
    assert pair_rewards(centre, centre, one, two, flat(2.0), flat(far)).item() == reward
    assert pair_rewards(centre, centre, two, one, flat(far), flat(2.0)).item() == reward
    assert pair_rewards(centre, centre, one, two, flat(2.0), flat(far), ORIGINAL).item() == 1


def test_unknown_depth_is_never_positive() -> None:
    kps = grid()
    cameras = camera((0, 0, 0)), camera((0.2, 0, 0))
    for depths in ((flat(0.0), flat(2.0)), (flat(2.0), flat(0.0))):
        reward = pair_rewards(kps, kps, *cameras, *depths)
        assert reward.max() == 0
        assert reward.min() == -0.25


def test_unknown_depth_is_not_a_point_at_the_camera() -> None:
    """Camera 2 sees camera 1 at its image centre, and would match anything that camera 1 sees there."""
    one, two = camera((0, 0, 0)), camera((0, 0, -1.0))
    centre = torch.tensor([[31.0, 32.0]])
    for options in (ORIGINAL, RewardOptions()):
        assert pair_rewards(centre, centre, one, two, flat(0.0), flat(3.0), options).item() == 0
        assert pair_rewards(centre, centre, two, one, flat(3.0), flat(0.0), options).item() == 0


RIGHT, ON_LINE, WRONG = 1.0, 0.5, -0.25


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, RIGHT),
        # the distance to the line
        ({"line_c": 1.5}, WRONG),
        ({"line_c": 1.4}, RIGHT),
        # the distance to the projection of the scene point
        ({"seen_x": 1.5}, ON_LINE),
        ({"seen_x": 0.9, "seen_y": 1.2}, ON_LINE),
        ({"seen_x": 0.8, "seen_y": 1.2}, RIGHT),
        # its depth and the visible depth there, in either direction
        ({"seen_z": SAME_DEPTH * 2}, ON_LINE),
        ({"seen_z": 2.09}, RIGHT),
        ({"seen_z": 2.0, "own_z": SAME_DEPTH * 2}, ON_LINE),
        ({"seen_z": 2.0, "own_z": 2.09}, RIGHT),
        # where the rays meet, behind by more than the slack
        ({"along": -0.125, "seen_x": 9.0}, ON_LINE),
        ({"along": -0.15, "seen_x": 9.0}, WRONG),
    ],
)
def test_a_match_exactly_at_a_threshold_is_not_within_it(changed: dict[str, float], expected: float) -> None:
    """A match whose terms are exact numbers, changed on one side and then on the other."""
    plain = dict.fromkeys(Terms._fields, torch.zeros(1, dtype=torch.float64))
    plain |= {name: torch.tensor([value], dtype=torch.float64) for name, value in
              {"line_b": 1.0, "ray_z": 1.0, "seen_z": 2.0, "own_z": 2.0}.items()}  # fmt: skip
    one = Terms(**plain)
    # perpendicular rays do not share their lengths
    two = Terms(**plain | {"ray_z": plain["x"], "ray_x": plain["ray_z"]})
    slack, on_line = torch.tensor([-0.125], dtype=torch.float64), torch.tensor([ON_LINE], dtype=torch.float64)
    options = RewardOptions(positive=RIGHT, negative=WRONG)
    values = {name: torch.tensor([value], dtype=torch.float64) for name, value in changed.items()}
    own = values.pop("own_z", None)
    sides = [(one._replace(**values), two), (one, two._replace(**values))]
    if own is not None:
        sides = [(one, two._replace(own_z=own)), (one._replace(own_z=own), two)]
    for pair in sides:
        assert reward(*pair, slack, on_line, options).item() == expected


def test_cameras_in_one_position_have_no_epipolar_reward() -> None:
    kps = grid()
    assert (pair_rewards(kps, kps, camera((1.0, 2, 3)), camera((1.0, 2, 3), 5.0)) == 0).all()


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0), (0, 0)])
def test_no_keypoints(n: int, m: int) -> None:
    kps1, kps2 = torch.zeros(n, 2), torch.zeros(m, 2)
    cameras = camera((0, 0, 0)), camera((0.2, 0, 0))
    assert pair_rewards(kps1, kps2, *cameras).shape == (n, m)
    assert pair_rewards(kps1, kps2, *cameras, flat(1.0), flat(1.0)).shape == (n, m)


def test_swapping_the_images_transposes_the_reward() -> None:
    one, two = camera((0, 0, 0)), camera((0.4, 0.1, 0.2), -8.0)
    kps1, kps2 = grid(), grid(3)
    depth1, depth2 = flat(2.0), flat(2.2)
    forward = pair_rewards(kps1, kps2, one, two, depth1, depth2)
    assert torch.equal(forward, pair_rewards(kps2, kps1, two, one, depth2, depth1).T)
    assert torch.equal(pair_rewards(kps1, kps2, one, two), pair_rewards(kps2, kps1, two, one).T)
