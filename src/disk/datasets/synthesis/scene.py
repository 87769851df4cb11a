"""Random scenes: a ground or wall with or without relief, boxes and panels in front of it, in a closed room.

World coordinates: the main surface is the plane z = 0, seen from z > 0. Objects stand on it within about one unit of
the origin; cameras are one to three units away. S scenes are drawn at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from disk.datasets.synthesis.dice import Dice
from disk.datasets.synthesis.relief import draw_heights, interpolate, to_cells
from disk.shapes import Float, Tensor

ROOM_PLANES = 6  # the main plane, four walls and a ceiling; they have no borders
ENDLESS = 1e4
MAX_PANELS, MAX_BOXES = 3, 4


@dataclass(frozen=True)
class Scenes:
    """S scenes, each with Q flat rectangles and one relief.

    Rectangles are ordered: the main plane, the rest of the room, panels, then faces of boxes. Opposite faces of a box
    are consecutive: the one facing +axis, then the one facing -axis.
    centre: centres of the rectangles.
    axes: their unit vectors u and v.
    half: half their size along u and v.
    outward: unit normals, pointing away from a box, otherwise towards +z.
    fixed: number of rectangles that are not faces of boxes.
    heights: relief z on a grid over [-REACH, REACH]^2, rows along y; 0 if there is none.
    up: the vertical direction for a level camera.
    light: unit vector towards the light.
    """

    centre: Float[Tensor, "s q 3"]
    axes: Float[Tensor, "s q 2 3"]
    half: Float[Tensor, "s q 2"]
    outward: Float[Tensor, "s q 3"]
    fixed: int
    heights: Float[Tensor, "s g g"]
    up: Float[Tensor, "s 3"]
    light: Float[Tensor, "s 3"]

    def __len__(self) -> int:
        return self.centre.shape[0]

    def to(self, device: torch.device | str) -> Scenes:
        """Copy to another device."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def draw_scenes(dice: Dice) -> Scenes:
    """Draw a random scene for each of the dice's seeds."""
    is_ground, is_picture = dice.chance(0.45), dice.chance(0.1)  # a picture has nothing in front of it
    up = torch.zeros(len(dice), 3, dtype=torch.float64)
    up[:, 1], up[:, 2] = (~is_ground).double(), is_ground.double()
    has_relief = dice.chance(0.55) & ~is_picture
    heights = draw_heights(dice) * has_relief[:, None, None]
    n_panels = torch.where(is_picture, 0, dice.integers(MAX_PANELS + 1))
    n_boxes = torch.where(is_picture, 0, dice.integers(MAX_BOXES + 1))
    room = _draw_room(dice)
    panels = _draw_panels(dice, n_panels, is_ground)
    boxes = _draw_boxes(dice, n_boxes, heights)
    centre, rotation, half = (torch.cat(parts, dim=1) for parts in zip(room, panels, boxes, strict=True))
    light = dice.normal(3)
    light[:, 2] = light[:, 2].abs() + 0.7
    return Scenes(
        centre=centre,
        axes=rotation[:, :, :2],
        half=half,
        outward=rotation[:, :, 2],
        fixed=room[0].shape[1] + panels[0].shape[1],
        heights=heights,
        up=up,
        light=F.normalize(light, dim=-1),
    )


# Rectangles below are (centre (s, q, 3), rotation (s, q, 3, 3) with rows u, v, outward, half (s, q, 2)).
Rectangles = tuple[Tensor, Tensor, Tensor]


def _draw_room(dice: Dice) -> Rectangles:
    count = len(dice)
    yaw = dice.uniform(-0.4, 0.4, 1) + torch.arange(4) * (math.pi / 2)
    cos, sin, zero, one = yaw.cos(), yaw.sin(), torch.zeros_like(yaw), torch.ones_like(yaw)
    inward = torch.stack([-cos, -sin, zero], -1)
    along = torch.stack([-sin, cos, zero], -1)
    vertical = torch.stack([zero, zero, one], -1)
    walls = torch.stack([along, vertical, inward], 2)
    floor = torch.eye(3, dtype=torch.float64).expand(count, 1, 3, 3)
    ceiling = torch.diag(torch.tensor([1.0, 1, -1], dtype=torch.float64)).expand(count, 1, 3, 3)
    centre = torch.zeros(count, ROOM_PLANES, 3, dtype=torch.float64)
    centre[:, 1:5] = -inward * dice.uniform(2.9, 6, 4, 1)
    centre[:, 5, 2] = dice.uniform(5, 8)
    half = torch.full((count, ROOM_PLANES, 2), ENDLESS, dtype=torch.float64)
    return centre, torch.cat([floor, walls, ceiling], 1), half


def _draw_panels(dice: Dice, numbers: Tensor, is_ground: Tensor) -> Rectangles:
    n = MAX_PANELS
    centre = torch.cat([dice.uniform(-1, 1, n, 2), dice.uniform(0.1, 0.8, n, 1)], -1)
    # lean little on a wall, stand on a ground
    tilt = torch.where(is_ground[:, None], dice.uniform(0.5, 1.5, n), dice.uniform(0, 1, n))
    around, turn = dice.uniform(-math.pi, math.pi, n), dice.uniform(-0.5, 0.5, n)
    # rotating by `turn - around` first keeps the sides close to the world axes for a small tilt
    rotation = _about_z(around) @ _about_x(tilt) @ _about_z(turn - around)
    return _present((centre, rotation.mT, dice.log_uniform(0.1, 0.5, n, 2)), numbers, 1)


def _draw_boxes(dice: Dice, numbers: Tensor, heights: Tensor) -> Rectangles:
    n = MAX_BOXES
    size = dice.log_uniform(0.08, 0.45, n, 3)
    xy = dice.uniform(-0.9, 0.9, n, 2)
    scene = torch.arange(len(dice)).repeat_interleave(n)
    ground = interpolate(heights, scene, to_cells(xy.flatten(0, 1).T)).view(-1, n)
    leans = dice.chance(0.3, n)
    standing = ground + size[..., 2] * dice.uniform(0.3, 1, n)
    z = torch.where(leans, dice.uniform(0.2, 0.7, n), standing)
    centre = torch.cat([xy, z[..., None]], -1)
    lean = torch.where(leans, dice.uniform(0, 0.8, n), 0.0)
    yaws = dice.uniform(-math.pi, math.pi, 2, n)
    rotation = (_about_z(yaws[:, 0]) @ _about_x(lean) @ _about_z(yaws[:, 1])).mT  # rows: the box's axes
    faces = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        for sign in (1, -1):
            normal = sign * rotation[:, :, axis]
            middle = centre + normal * size[..., axis, None]
            half = torch.stack([size[..., u], size[..., v]], -1)
            faces.append((middle, torch.stack([rotation[:, :, u], rotation[:, :, v], normal], 2), half))
    # (s, boxes, 6, ...) to (s, boxes * 6, ...)
    centre, rotation, half = (torch.stack(parts, 2).flatten(1, 2) for parts in zip(*faces, strict=True))
    return _present((centre, rotation, half), numbers, 6)


def _present(rectangles: Rectangles, numbers: Tensor, faces: int) -> Rectangles:
    """Keep as many objects as the largest scene has; bury those that a scene lacks far below its main plane."""
    centre, rotation, half = (part[:, : int(numbers.max()) * faces] for part in rectangles)
    absent = torch.arange(centre.shape[1]) // faces >= numbers[:, None]
    buried = torch.tensor([0.0, 0.0, -50.0], dtype=torch.float64)
    return torch.where(absent[..., None], buried, centre), rotation, half


def _about_z(angle: Tensor) -> Tensor:
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, zero + 1], -1).unflatten(-1, (3, 3))


def _about_x(angle: Tensor) -> Tensor:
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack([zero + 1, zero, zero, zero, cos, -sin, zero, sin, cos], -1).unflatten(-1, (3, 3))
