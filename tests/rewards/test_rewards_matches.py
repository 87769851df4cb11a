"""Rewards of many pairs at once, compared with each pair alone and with the geometry computed match by match."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from disk.geometry.camera import Camera
from disk.rewards import matches
from disk.rewards.matches import match_rewards, matched_rewards, pair_rewards, reward
from disk.rewards.terms import RewardOptions, Terms, depth_at, pair_terms

SIZE = 48


class World:
    """Cameras that look at a rough wall: images 0 and 1 share a position, image 3 has no depth map."""

    def __init__(self, seed: int, dtype: torch.dtype, points: int = 40) -> None:
        rng = np.random.default_rng(seed)
        self.cameras, self.depths, self.points = [], [], []
        for number in range(4):
            R = Rotation.from_rotvec(rng.normal(0, 0.1, 3)).as_matrix()
            centre = rng.normal(0, 0.4, 3) * (number > 1)
            K = np.array([[40.0 + number, 0, 23.5], [0, 41.0, 23.5], [0, 0, 1]])
            self.cameras.append(Camera(*(torch.tensor(x, dtype=dtype) for x in (K, R, -R @ centre))))
            # the depth of a wall at z = 2, wrong in places by more or less than the tolerance
            y, x = np.mgrid[:SIZE, :SIZE].astype(float)
            rays = np.stack([x, y, np.ones_like(x)], 2) @ np.linalg.inv(K).T @ R
            depth = (2 - centre[2]) / rays[..., 2] * rng.choice([1, 1, 1, 1.03, 1.2], (SIZE, SIZE))
            depth[rng.random(depth.shape) < 0.1] = 0
            self.depths.append(torch.tensor(depth, dtype=dtype) if number < 3 else None)
            self.points.append(torch.tensor(rng.integers(0, SIZE, (points - 3 * number, 2)), dtype=dtype))


def batch(world: World, options: RewardOptions, first: list[int], second: list[int]) -> torch.Tensor:
    """All pairs at once, padded to the same number of keypoints."""
    most = max(len(points) for points in world.points)
    points = torch.stack([torch.nn.functional.pad(p, (0, 0, 0, most - len(p)), value=5.0) for p in world.points])
    depths = torch.stack(
        [
            torch.full((most,), torch.nan, dtype=points.dtype) if depth is None else depth_at(p, depth)
            for p, depth in zip(points, world.depths, strict=True)
        ]
    )
    known = torch.tensor([depth is not None for depth in world.depths])
    terms = pair_terms(world.cameras, points, depths, known, torch.tensor(first), torch.tensor(second), options)
    rewards = match_rewards(terms)
    # without skipping matches far from the line
    one, two = Terms(*terms.one.unbind(1)), Terms(*terms.two.unbind(1))
    one, two = Terms(*(x[:, :, None] for x in one)), Terms(*(x[:, None] for x in two))
    assert torch.equal(rewards, reward(one, two, terms.slack[:, None, None], terms.on_line[:, None, None], options))
    return rewards


@pytest.mark.parametrize("visibility", [True, False])
@pytest.mark.parametrize("epipolar", [True, False])
@pytest.mark.parametrize("at_once", [7, 1 << 19])
def test_pairs_at_once_equal_each_pair_bit_for_bit(
    epipolar: bool, visibility: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(0, torch.float32)
    options = RewardOptions(epipolar=epipolar, visibility=visibility, threshold=1.3)
    first, second = [0, 0, 2, 3, 1, 2], [1, 2, 1, 2, 3, 0]
    rewards = batch(world, options, first, second)
    monkeypatch.setitem(matches._AT_ONCE, "cpu", at_once)
    kinds = set()
    for p, (i, j) in enumerate(zip(first, second, strict=True)):
        pts1, pts2 = world.points[i], world.points[j]
        alone = pair_rewards(pts1, pts2, world.cameras[i], world.cameras[j], world.depths[i], world.depths[j], options)
        assert torch.equal(alone, rewards[p, : len(pts1), : len(pts2)])
        kinds |= set(alone.unique().tolist())
    assert kinds == {1.0, 0.0, -0.25}


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    pair=st.sampled_from([(0, 2), (2, 1), (2, 3)]),
    threshold=st.floats(0.5, 6),
    visibility=st.booleans(),
    epipolar=st.booleans(),
)
def test_rewards_equal_those_of_the_geometry(
    seed: int, pair: tuple[int, int], threshold: float, visibility: bool, epipolar: bool
) -> None:
    world, options = (
        World(seed, torch.float64, 15),
        RewardOptions(threshold=threshold, visibility=visibility, epipolar=epipolar, positive=2.0, negative=-0.5),
    )
    i, j = pair
    views = [(world.cameras[k], world.depths[k]) for k in pair]
    found = pair_rewards(world.points[i], world.points[j], views[0][0], views[1][0], views[0][1], views[1][1], options)
    for (a, b), value in np.ndenumerate(found.numpy()):
        expected = reference(world.points[i][a].numpy(), world.points[j][b].numpy(), views, options)
        assert expected is None or value == expected


def reference(p: np.ndarray, q: np.ndarray, views: list, options: RewardOptions) -> float | None:
    """The reward of one match; None within rounding of a threshold."""
    (K1, R1, t1), (K2, R2, t2) = [[part.numpy() for part in (c.K, c.R, c.t)] for c, _ in views]
    close = []

    def below(a: float, b: float) -> bool:
        close.append(abs(a - b) < 1e-9 * max(1, abs(a), abs(b)))
        return a < b

    def ray(K: np.ndarray, R: np.ndarray, x: np.ndarray) -> np.ndarray:
        return R.T @ np.linalg.inv(K) @ [*x, 1]

    def seen(K: np.ndarray, R: np.ndarray, t: np.ndarray, X: np.ndarray) -> tuple[np.ndarray, float]:
        x = K @ (R @ X + t)
        return x[:2] / x[2], x[2]

    def to_line(x: np.ndarray, far: np.ndarray, near: tuple, target: tuple) -> float:
        """Distance of x to the image of the ray of `far`: the line through the images of two of its points."""
        centre = -near[1].T @ near[2]
        ends = [target[0] @ (target[1] @ X + target[2]) for X in (centre, centre + far)]
        line = np.cross(*ends)
        return abs(line @ [*x, 1]) / np.hypot(*line[:2])

    one, two = (K1, R1, t1), (K2, R2, t2)
    ray1, ray2 = ray(K1, R1, p), ray(K2, R2, q)
    on_line = below(to_line(q, ray1, one, two), options.threshold) & below(
        to_line(p, ray2, two, one), options.threshold
    )
    if options.visibility:
        c1, c2 = -R1.T @ t1, -R2.T @ t2
        d1, d2 = ray1 / np.linalg.norm(ray1), ray2 / np.linalg.norm(ray2)
        s, t = np.linalg.lstsq(np.stack([d1, -d2], 1), c2 - c1, rcond=None)[0]
        slack = -2 * options.threshold / min(K1[0, 0], K1[1, 1], K2[0, 0], K2[1, 1]) * np.linalg.norm(c2 - c1)
        sine2 = 1 - (d1 @ d2) ** 2
        in_front = not (below(s * sine2, slack) | below(t * sine2, slack))
    else:
        in_front = True
    depth1, depth2 = (None if d is None or options.epipolar else d[int(x[1]), int(x[0])].item()
                      for (_, d), x in zip(views, (p, q), strict=True))  # fmt: skip
    if depth1 is None or depth2 is None:
        result = options.positive if on_line and in_front else options.negative
    else:
        same = depth1 > 0 and depth2 > 0
        if same:
            (in2, z2), (in1, z1) = (
                seen(*two, -R1.T @ t1 + ray1 * depth1),
                seen(*one, -R2.T @ t2 + ray2 * depth2),
            )
            same = below(np.hypot(*(in2 - q)), options.threshold) & below(np.hypot(*(in1 - p)), options.threshold)
            if options.visibility:
                for a, b in ((z2, depth2), (z1, depth1)):
                    same &= below(a, 1.05 * b) & below(b, 1.05 * a)
        result = options.positive if same else 0.0 if on_line and in_front else options.negative
    return None if any(close) else result


def test_matched_rewards_are_the_diagonal() -> None:
    world = World(3, torch.float32, 30)
    points = [p[:20] for p in world.points]
    for i, j in ((0, 2), (2, 3), (0, 1)):
        arguments = (points[i], points[j], world.cameras[i], world.cameras[j], world.depths[i], world.depths[j])
        assert torch.equal(matched_rewards(*arguments), pair_rewards(*arguments).diagonal())


def test_cameras_in_one_position_are_judged_by_depth_alone() -> None:
    """Rounding of their centres gives no epipolar geometry: a match that is not correct by depth gets 0."""
    world = World(1, torch.float32)
    rewards = pair_rewards(*world.points[:2], *world.cameras[:2], *world.depths[:2])
    assert set(rewards.unique().tolist()) == {0.0, 1.0}
