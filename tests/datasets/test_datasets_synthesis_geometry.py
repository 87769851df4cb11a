"""Depth of rendered scenes compared with a brute-force reference, with scipy, and with another view."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator

from disk.datasets.synthesis.dice import Dice
from disk.datasets.synthesis.relief import GRID, REACH
from disk.datasets.synthesis.scene import Scenes, draw_scenes
from disk.datasets.synthesis.trace import Hits, Views, trace, visible_planes
from disk.datasets.synthesis.views import (
    MAX_ANGLE,
    MAX_OVERLAP,
    MIN_OVERLAP,
    choose_views,
    draw_views,
    measure_overlap,
)
from disk.geometry.camera import Camera, project, unproject

HEIGHT, WIDTH = 48, 64
BLOCKS = (2, HEIGHT // 4, 4, WIDTH // 4, 4)


def pixels() -> torch.Tensor:
    """All pixels in groups of 4x4, as the renderer requests them; (2, groups, 16)."""
    ys, xs = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return torch.stack([xs, ys]).double().view(BLOCKS).transpose(2, 3).reshape(2, -1, 16)


def make(seeds: range, views: int) -> tuple[Scenes, Views, Hits]:
    dice = Dice(list(seeds))
    scenes = draw_scenes(dice)
    candidates = draw_views(dice, scenes, 3 * views + 2, HEIGHT, WIDTH)
    cameras = choose_views(scenes, candidates, dice.uniform(0, MAX_ANGLE), views, HEIGHT, WIDTH)
    rays = pixels().expand(len(scenes), views, -1, -1, -1)
    return scenes, cameras, trace(scenes, cameras, visible_planes(scenes, cameras), rays)


@pytest.fixture(scope="module")
def world() -> tuple[Scenes, Views, Hits]:
    return make(range(12), 2)


def camera(views: Views, s: int, v: int) -> Camera:
    return Camera(views.K[s, v], views.R[s, v], views.t[s, v])


def rays_of(cam: Camera, at: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Camera centre, and for each pixel the direction whose component along the optical axis is 1."""
    centre = unproject(cam, at, torch.zeros(len(at), dtype=torch.float64))
    return centre[0].numpy(), (unproject(cam, at, torch.ones(len(at), dtype=torch.float64)) - centre).numpy()


def test_planes_against_brute_force(world: tuple[Scenes, Views, Hits]) -> None:
    scenes, views, hits = world
    at = pixels().flatten(1).T
    compared = 0
    for s in range(len(scenes)):
        if scenes.heights[s].any():
            continue
        for v in range(2):
            centre, directions = rays_of(camera(views, s, v), at)
            best = np.full(len(at), np.inf)
            surface = np.zeros(len(at), int)
            for q in range(scenes.centre.shape[1]):
                a, b = scenes.axes[s, q].numpy()
                normal = np.cross(a, b)
                z = (scenes.centre[s, q].numpy() - centre) @ normal / (directions @ normal)
                offset = centre + z[:, None] * directions - scenes.centre[s, q].numpy()
                half = scenes.half[s, q].numpy()
                inside = (np.abs(offset @ a) <= half[0]) & (np.abs(offset @ b) <= half[1])
                nearer = inside & (z > 0) & (z < best)
                best[nearer], surface[nearer] = z[nearer], q
            same = surface == hits.surface[s, v].numpy()
            assert same.mean() > 0.999  # all except rays through edges
            same &= hits.depth[s, v].numpy() > 0  # unknown on planes seen edge-on
            np.testing.assert_allclose(hits.depth[s, v].numpy()[same], best[same], rtol=5e-7)
            compared += 1
    assert compared >= 4


def test_hits_on_reliefs_lie_on_them_and_are_the_first(world: tuple[Scenes, Views, Hits]) -> None:
    scenes, views, hits = world
    at = pixels().flatten(1).T
    grid = np.linspace(-REACH, REACH, GRID)
    compared = 0
    for s in range(len(scenes)):
        if not scenes.heights[s].any():
            continue
        relief = RegularGridInterpolator((grid, grid), scenes.heights[s].numpy())
        for v in range(2):
            centre, directions = rays_of(camera(views, s, v), at)
            depth = hits.depth[s, v].double().numpy()
            hit = (hits.height[s, v].numpy() > 0) & (depth > 0)
            points = centre + depth[hit, None] * directions[hit]
            heights = relief(points[:, 1::-1].clip(-REACH, REACH))
            np.testing.assert_allclose(points[:, 2], heights, atol=3e-6)
            # no part of the relief is above the ray before any kind of hit
            seen = np.nonzero(depth > 0)[0][::7]
            steps = np.linspace(0, 0.998, 400)[:, None, None]
            between = centre + steps * depth[seen, None] * directions[seen]
            below = between[..., 2] - relief(between[..., 1::-1].clip(-REACH, REACH))
            assert (below.min(0) < -1e-4).mean() < 2e-3
            compared += hit.sum()
    assert compared > 5000


def test_depth_is_known_nearly_everywhere(world: tuple[Scenes, Views, Hits]) -> None:
    assert (world[2].depth > 0).float().mean() > 0.995


def test_reprojection_is_exact_to_a_thousandth_of_a_pixel() -> None:
    size = 768
    dice = Dice(range(40, 56))
    scenes = draw_scenes(dice)
    candidates = draw_views(dice, scenes, 8, size, size)
    views = choose_views(scenes, candidates, dice.uniform(0, MAX_ANGLE), 2, size, size)
    at = torch.randint(size, (4000, 2), generator=torch.Generator().manual_seed(0)).double()
    rays = at.T[None, None, :, :, None].expand(len(scenes), 2, -1, -1, -1)
    hits = trace(scenes, views, visible_planes(scenes, views), rays)
    limit = size - 0.5
    hidden, shared, total = 0, 0, 0
    for s in range(len(scenes)):
        first, second = camera(views, s, 0), camera(views, s, 1)
        depth = hits.depth[s, 0].double()
        there, z = project(second, unproject(first, at, depth))
        inside = (depth > 0) & (z > 0) & ((there > -0.5) & (there < limit)).all(1)
        one = Views(views.K[s : s + 1, 1:], views.R[s : s + 1, 1:], views.t[s : s + 1, 1:])
        alone = Scenes(**{k: x[s : s + 1] if isinstance(x, torch.Tensor) else x for k, x in vars(scenes).items()})
        asked = torch.where(inside[:, None], there, 0.0).T[None, None, :, :, None]
        seen = trace(alone, one, visible_planes(alone, one), asked)
        found = seen.depth[0, 0].double()
        same = inside & (found > 0) & ((found - z).abs() < 1e-4 * z)
        same &= seen.surface[0, 0] == hits.surface[s, 0]
        back, _ = project(first, unproject(second, there[same], found[same]))
        assert (back - at[same]).norm(dim=1).max() < 1e-3
        # points of the first view may be hidden in the second, but are never in front of the surface that it sees
        assert (inside & (found > 0) & (z < found * (1 - 1e-4))).float().mean() < 1e-3
        hidden += int((inside & (found > 0) & (z > found * 1.001)).sum())
        shared, total = shared + int(same.sum()), total + len(at)
    assert shared > 0.4 * total
    assert hidden > 0.005 * total  # there is occlusion


def test_cameras_are_rotations_above_the_ground(world: tuple[Scenes, Views, Hits]) -> None:
    scenes, views, _ = world
    torch.testing.assert_close(views.R @ views.R.mT, torch.eye(3).double().expand_as(views.R), atol=1e-6, rtol=0)
    assert (torch.linalg.det(views.R) > 0).all()
    assert (views.centres[..., 2] > scenes.heights.amax((1, 2))[:, None]).all()
    # a float32 camera equals the float64 one
    for part in (views.K, views.R, views.t):
        assert torch.equal(part.float().double(), part)


def test_views_overlap_and_differ_in_all_ways() -> None:
    dice = Dice(range(100, 130))
    scenes = draw_scenes(dice)
    candidates = draw_views(dice, scenes, 11, HEIGHT, WIDTH)
    views = choose_views(scenes, candidates, dice.uniform(0, MAX_ANGLE), 3, HEIGHT, WIDTH)
    overlap, nearest = measure_overlap(scenes, views, HEIGHT, WIDTH)
    rows, columns = torch.triu_indices(3, 3, 1)
    pairs = overlap[:, rows, columns]
    assert ((pairs > MIN_OVERLAP - 1e-6) & (pairs < MAX_OVERLAP + 1e-6)).float().mean() > 0.95
    assert pairs.min() > 0.1
    assert nearest.median() > 0.5
    turn = views.R[:, 1:] @ views.R[:, :1].mT
    tilt = torch.rad2deg(torch.acos(turn[..., 2, 2].clamp(-1, 1))).flatten()
    roll = torch.rad2deg(torch.atan2(turn[..., 1, 0], turn[..., 0, 0])).abs().flatten()
    assert tilt.quantile(0.8) > 30
    assert tilt.max() < 100
    assert roll.median() < 30
    assert roll.max() > 40
    distance = (views.centres[:, 1:] - views.centres[:, :1]).norm(dim=-1)
    assert distance.quantile(0.7) > 0.5
    zoom = (views.K[:, 1:, 0, 0] / views.K[:, :1, 0, 0]).log().abs()
    assert zoom.median() < np.log(1.8)
    assert zoom.quantile(0.85) > np.log(2)  # close-ups


def test_scenes_do_not_depend_on_their_neighbours() -> None:
    together, alone = draw_scenes(Dice([3, 4, 5])), draw_scenes(Dice([4]))
    assert torch.equal(together.heights[1], alone.heights[0])
    faces = alone.centre.shape[1] - alone.fixed
    assert torch.equal(together.centre[1, :6], alone.centre[0, :6])
    assert torch.equal(together.centre[1, together.fixed : together.fixed + faces], alone.centre[0, alone.fixed :])
