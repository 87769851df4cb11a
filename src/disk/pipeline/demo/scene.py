"""A rendered room: boxes covered with photographs on a patchwork floor, seen from an arc of cameras.

The world is right-handed with z up, its unit is about a metre; the floor is z = 0 and the boxes stand around the
origin. Uses the renderer of the training scenes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from disk.datasets.synthesis.materials import Cover
from disk.datasets.synthesis.render import render_covered
from disk.datasets.synthesis.scene import Scenes
from disk.datasets.synthesis.textures import PhotoStore, build_store
from disk.datasets.synthesis.trace import Views, visible_planes
from disk.geometry.camera import Camera
from disk.images.resizing import Placement
from disk.pipeline.demo.photos import centre_crop, load_photo
from disk.shapes import UInt8
from disk.viewing.cloud import looking_at

FLOOR = (("gravel.png", "grass.png"), ("brick.png", "moon.png"))
WALLS = ("hubble_deep_field.jpg", "retina.jpg", "ihc.png", "motorcycle_left.png")  # north, east, south, west
# position (x, y) of a box, its yaw in degrees, its size, and the photos on its front, right, back, left and top; the
# front faces the middle camera at yaw 0. Clearly visible faces all have different photos, as equal ones would match
BOXES = (
    ((-0.1, 0.6), 15.0, (1.3, 0.5, 1.2), ("astronaut.png", "ihc.png", "grass.png", "rocket.jpg", "brick.png")),
    ((-0.9, -0.3), -30.0, (0.8, 0.6, 0.6), ("chelsea.png", "text.png", "grass.png", "page.png", "gravel.png")),
    ((0.8, -0.3), 40.0, (0.8, 0.7, 0.7), ("coffee.png", "moon.png", "grass.png", "camera.png", "retina.jpg")),
    ((0.0, -0.8), 8.0, (0.6, 0.4, 0.4), ("coins.png", "cell.png", "grass.png", "clock_motion.png", "grass.png")),
)
WALL_DISTANCE, WALL_HEIGHT = 4.6, 3.6
ROOM_YAW = 10.0  # degrees
STEP = 15.0  # degrees between neighbouring cameras, around the boxes
DISTANCE = 3.3
LIGHT = np.array([-0.3, -0.55, 0.78])  # direction towards the light
SUPERSAMPLING = 2  # rays per pixel along each axis
FAR = 1e3  # metres


@dataclass(frozen=True)
class Face:
    """A rectangle: its centre, half of its sides pointing right and down as seen by the viewer, and its photo."""

    centre: np.ndarray
    right: np.ndarray
    down: np.ndarray
    photo: UInt8[np.ndarray, "h w 3"]

    @property
    def outward(self) -> np.ndarray:
        """The unit normal towards the viewer."""
        normal = np.cross(self.down, self.right)
        return normal / np.linalg.norm(normal)


@dataclass(frozen=True)
class Room:
    """Faces, and their photos as textures, in the same order."""

    faces: list[Face]
    photos: PhotoStore


def build_room() -> Room:
    """Build the room of the demo: a floor, four walls, no ceiling, and the boxes."""
    faces = _floor_and_walls()
    for place, yaw, size, files in BOXES:
        faces += _box(place, yaw, size, files)
    return Room(faces, build_store(face.photo for face in faces))


def orbit(count: int, width: int, height: int) -> list[Camera]:
    """`count` cameras along an arc, alternately low and high, all looking at the boxes."""
    focal = 0.9 * width
    K = torch.tensor([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]], dtype=torch.float64)
    cameras = []
    for index in range(count):
        angle = math.radians(-90 + STEP * (index - (count - 1) / 2))
        eye = np.array([DISTANCE * math.cos(angle), DISTANCE * math.sin(angle), 1.3 + 0.4 * (index % 2)])
        cameras.append(looking_at(eye, np.array([0, 0, 0.4]), np.array([0, 0, 1.0]), K))
    return cameras


@torch.no_grad()
def render_view(room: Room, camera: Camera, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """Render the room from one camera; a pixel is the mean over a grid of rays. Uncovered areas are black."""
    scale = float(SUPERSAMPLING)
    finer = Placement(width * SUPERSAMPLING, height * SUPERSAMPLING, scale, scale)
    K = torch.from_numpy(finer.from_original()) @ camera.K
    views = Views(K[None, None], camera.R[None, None], camera.t[None, None])
    eye = camera.centre.numpy()
    shown = [i for i, face in enumerate(room.faces) if (eye - face.centre) @ face.outward > 0]
    faces = [_backdrop(camera), *(room.faces[i] for i in shown)]
    photo = torch.tensor([0, *shown])
    scenes = _scene(faces)
    light = torch.tensor([0.0, *(0.7 + 0.3 * max(0.0, float(face.outward @ LIGHT)) for face in faces[1:])])
    # the photo fills the face
    sizes = room.photos.sizes[photo].double()
    to_texels = torch.diag_embed(torch.cat([sizes / 2 / scenes.half[0], torch.ones(len(sizes), 1)], dim=1))
    to_texels[:, :2, 2] = (sizes - 1) / 2
    cover = Cover(photo[None], to_texels[None], light[None])
    size = (height * SUPERSAMPLING, width * SUPERSAMPLING)
    images, _ = render_covered(scenes, views, visible_planes(scenes, views), cover, room.photos, *size)
    image = (255 * F.avg_pool2d(images[0, 0], SUPERSAMPLING)).round().clamp(0, 255).byte()
    return image.permute(1, 2, 0).numpy()


def _scene(faces: list[Face]) -> Scenes:
    """The faces as one scene for the renderer, of rectangles only."""
    centre, right, down, outward = (
        torch.from_numpy(np.stack([getattr(face, name) for face in faces])[None]).double()
        for name in ("centre", "right", "down", "outward")
    )
    half = torch.stack([right.norm(dim=-1), down.norm(dim=-1)], dim=-1)
    axes = torch.stack([right, down], dim=2) / half[..., None]
    up = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    light = torch.from_numpy(LIGHT / np.linalg.norm(LIGHT))[None]
    return Scenes(centre, axes, half, outward, len(faces), torch.zeros(1, 2, 2, dtype=torch.float64), up, light)


def _backdrop(camera: Camera) -> Face:
    """A black face behind everything, so that every ray hits something."""
    right, down, forward = camera.R.numpy()
    away = camera.centre.numpy() + FAR * forward
    return Face(away, FAR * FAR * right, FAR * FAR * down, np.zeros((1, 1, 3), np.uint8))


def _floor_and_walls() -> list[Face]:
    x, y, z = _turned_axes(ROOM_YAW)
    patches = np.block([[[load_photo(file)[:512, :512]] for file in row] for row in FLOOR])
    floor = np.pad(patches, ((512, 512), (512, 512), (0, 0)), mode="symmetric")
    faces = [Face(np.zeros(3), WALL_DISTANCE * x, -WALL_DISTANCE * y, floor)]
    for outward, file in zip((-y, -x, y, x), WALLS, strict=True):
        right, down = WALL_DISTANCE * np.cross(z, outward), -WALL_HEIGHT / 2 * z
        faces.append(_covered(-WALL_DISTANCE * outward - down, right, down, file))
    return faces


def _box(
    place: tuple[float, float], yaw: float, size: tuple[float, float, float], files: tuple[str, ...]
) -> list[Face]:
    """The four sides of a box and its top."""
    axes = _turned_axes(yaw)
    x, y, z = (side / 2 * axis for side, axis in zip(size, axes, strict=True))
    middle = np.array([*place, 0]) + z
    sides = ((-y, x), (x, y), (y, -x), (-x, -y))  # direction to the face, and to its right side
    faces = [_covered(middle + to, right, -z, file) for (to, right), file in zip(sides, files[:4], strict=True)]
    return [*faces, _covered(middle + z, x, -y, files[4])]


def _covered(centre: np.ndarray, right: np.ndarray, down: np.ndarray, file: str) -> Face:
    photo = centre_crop(load_photo(file), float(np.linalg.norm(right) / np.linalg.norm(down)))
    return Face(centre, right, down, photo)


def _turned_axes(yaw: float) -> np.ndarray:
    """The axes x, y, z, rotated about z."""
    cos, sin = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1.0]])
