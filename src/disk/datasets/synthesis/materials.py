"""Materials of the surfaces of scenes: photo, scale, rotation, offset and lighting."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from disk.datasets.synthesis.dice import Dice
from disk.datasets.synthesis.scene import MAX_BOXES, MAX_PANELS, ROOM_PLANES, Scenes
from disk.datasets.synthesis.textures import PLACES, PhotoStore
from disk.datasets.synthesis.trace import Hits, Views
from disk.shapes import Float, Int, Tensor

_FINENESS = (0.67, 1.6)  # texels per pixel; photos are magnified by at most 1.5


@dataclass(frozen=True)
class Materials:
    """The material of each rectangle of the scenes.

    photo: index of the photo.
    turn: angle between the photo's y axis and the rectangle's u axis.
    fineness: texels per pixel at the surface point nearest to a camera.
    origin: texel at the centre of the rectangle.
    """

    photo: Int[Tensor, "s q"]
    turn: Float[Tensor, "s q"]
    fineness: Float[Tensor, "s q"]
    origin: Float[Tensor, "s q 2"]

    def to(self, device: torch.device | str) -> Materials:
        """Copy to another device."""
        return Materials(*(x.to(device) for x in vars(self).values()))


@dataclass(frozen=True)
class Cover:
    """The appearance of each rectangle of the scenes.

    photo: index of its photo.
    to_texels: map from (u, v, 1) on the rectangle to texels (x, y, 1).
    light: its brightness.
    """

    photo: Int[Tensor, "s q"]
    to_texels: Float[Tensor, "s q 3 3"]
    light: Float[Tensor, "s q"]


def draw_materials(dice: Dice, scenes: Scenes, store: PhotoStore) -> Materials:
    """Draw a random photo for every surface of the scenes, on the CPU; the faces of a box share one."""
    # draw for the maximum number of objects, so that a scene does not depend on others in the batch
    own, every = ROOM_PLANES + MAX_PANELS, ROOM_PLANES + MAX_PANELS + 6 * MAX_BOXES
    used = torch.cat([torch.arange(scenes.fixed), own + torch.arange(scenes.centre.shape[1] - scenes.fixed)])
    order = dice.uniform(0, 1, max(len(store), own + MAX_BOXES)).argsort(1) % len(store)
    photo = torch.cat([order[:, :own], order[:, own : own + MAX_BOXES].repeat_interleave(6, 1)], 1)
    place = store.places.cpu()[photo, dice.integers(PLACES, every)] + dice.uniform(-32, 32, every, 2)
    fineness = dice.log_uniform(*_FINENESS, every)
    # photos are upright on surfaces that are not level: their y axis points down
    down = -(scenes.axes @ scenes.up[:, None, :, None])[..., 0]
    upright = torch.atan2(down[..., 1], down[..., 0]) + 0.15 * dice.normal(every)[:, used]
    any_way = dice.uniform(-torch.pi, torch.pi, every)[:, used]
    turn = torch.where(dice.chance(0.2, every)[:, used], any_way, upright)
    return Materials(photo[:, used], turn, fineness[:, used], place[:, used])


def texture_maps(scenes: Scenes, views: Views, materials: Materials, coarse: Hits) -> Float[Tensor, "s q 3 3"]:
    """Compute the maps from (u, v, 1) on each rectangle to texels (x, y, 1).

    At the point of a surface nearest to a camera, a pixel spans `fineness` texels.
    coarse: hits of a few rays of each view, which locate this point.
    """
    nearness = views.K[..., 0, 0, None] / torch.where(coarse.depth > 0, coarse.depth, torch.inf)
    finest = torch.zeros(scenes.centre.shape[:2], device=nearness.device, dtype=nearness.dtype)
    finest.scatter_reduce_(1, coarse.surface.flatten(1).long(), nearness.flatten(1), "amax")
    # surfaces hit by no coarse ray are small in the image
    density = torch.where(finest > 0, finest, finest.amax(1, keepdim=True)) * materials.fineness
    cos, sin = materials.turn.cos() * density, materials.turn.sin() * density
    # not mirrored when seen from outside
    side = (torch.linalg.cross(*scenes.axes.unbind(2)) * scenes.outward).sum(-1).sign()
    ox, oy = materials.origin.unbind(-1)
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    rows = [-sin * side, cos * side, ox, cos, sin, oy, zero, zero, one]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def brightness(normal: Float[Tensor, "*#n 3"], light: Float[Tensor, "*#n 3"]) -> Tensor:
    """Ambient and diffuse light on surfaces; 1 if they face +z."""
    lit = 0.5 + 0.7 * (normal * light).sum(-1).clamp(min=0)
    return (lit / (0.5 + 0.7 * light[..., 2])).clamp(max=1.25).float()
