"""A rendered room of photographs: boxes covered with them on a patchwork floor, seen from an arc of cameras.

The world is right-handed with z up, its unit about a metre; the floor is z = 0 and the boxes stand around
the origin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from disk.datasets.synthesis.scene import ENDLESS, GRID, Scenes
from disk.datasets.synthesis.textures import PhotoStore, build_store, lookup
from disk.datasets.synthesis.trace import Views, trace, visible_planes
from disk.geometry.camera import Camera
from disk.pipeline.demo.photos import centre_crop, load_photo
from disk.shapes import Float, Tensor, UInt8
from disk.viewing.cloud import looking_at

FLOOR = (("gravel.png", "grass.png"), ("brick.png", "moon.png"))
WALLS = ("hubble_deep_field.jpg", "retina.jpg", "ihc.png", "motorcycle_left.png")  # north, east, south, west
# where a box stands (x, y), its yaw in degrees, its size, and the photos on its four sides and its top;
# the first side faces the middle camera at yaw 0, the others follow anticlockwise. No two sides that the
# cameras see have the same photo: it would be a false loop
BOXES = (
    ((-0.1, 0.6), 15, (1.3, 0.5, 1.2), ("astronaut.png", "ihc.png", "grass.png", "rocket.jpg", "brick.png")),
    ((-0.9, -0.3), -30, (0.8, 0.6, 0.6), ("chelsea.png", "coins.png", "grass.png", "page.png", "gravel.png")),
    ((0.8, -0.3), 40, (0.8, 0.7, 0.7), ("coffee.png", "moon.png", "grass.png", "camera.png", "retina.jpg")),
    ((0, -0.8), 8, (0.6, 0.4, 0.4), ("text.png", "cell.png", "grass.png", "clock_motion.png", "brick.png")),
)
WALL_DISTANCE, WALL_HEIGHT = 4.6, 3.6
ARC = 165.0  # degrees from the first camera to the last
DISTANCE = 3.3
SUPERSAMPLING = 2  # rays along a pixel's side


@dataclass(frozen=True)
class Face:
    """A flat rectangle: its centre, unit vectors right and down as one sees it, half its size, its photo.

    extent: half the size of one copy of the photo; beyond it the photo goes on mirrored.
    """

    centre: np.ndarray
    right: np.ndarray
    down: np.ndarray
    half: tuple[float, float]
    photo: UInt8[np.ndarray, "h w 3"]
    extent: tuple[float, float]

    @property
    def outward(self) -> np.ndarray:
        """The unit normal towards the viewer."""
        return np.cross(self.down, self.right)


@dataclass(frozen=True)
class Room:
    """The faces as the tracer takes them, and their photos."""

    scenes: Scenes
    store: PhotoStore
    extents: Float[Tensor, "q 2"]


def build_room() -> Room:
    """The room of the demo. The faces of boxes come last, opposite ones in a row, as the tracer wants."""
    fixed = _floor_and_walls()
    faces = fixed + [face for box in BOXES for face in _box(*box)]
    stack = lambda rows: torch.from_numpy(np.array(rows, dtype=np.float64))[None]  # noqa: E731
    scenes = Scenes(
        centre=stack([face.centre for face in faces]),
        axes=stack([(face.right, face.down) for face in faces]),
        half=stack([face.half for face in faces]),
        outward=stack([face.outward for face in faces]),
        fixed=len(fixed),
        heights=torch.zeros(1, GRID, GRID, dtype=torch.float64),
        slope=torch.zeros(1, dtype=torch.float64),
        has_relief=torch.zeros(1, dtype=torch.bool),
        up=torch.tensor([[0.0, 0, 1]], dtype=torch.float64),
        light=F.normalize(torch.tensor([[-0.4, -0.7, 1.0]], dtype=torch.float64), dim=-1),
    )
    return Room(scenes, build_store(face.photo for face in faces), stack([face.extent for face in faces])[0])


def orbit(count: int, width: int, height: int) -> list[Camera]:
    """`count` cameras along the arc, one low and one high in turn, all looking at the boxes."""
    focal = 0.9 * width
    K = torch.tensor([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]], dtype=torch.float64)
    cameras = []
    for index in range(count):
        angle = math.radians(-90 + ARC * (index / max(1, count - 1) - 0.5))
        eye = np.array([DISTANCE * math.cos(angle), DISTANCE * math.sin(angle), 1.3 + 0.4 * (index % 2)])
        pose = looking_at(eye, np.array([0, 0, 0.4]), np.array([0, 0, 1.0]))
        cameras.append(Camera(K, pose.R, pose.t))
    return cameras


@torch.no_grad()
def render_view(room: Room, camera: Camera, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """The room from one camera: each pixel the mean over a grid of rays, textures filtered for their spacing."""
    camera, width, height = _scaled(camera, SUPERSAMPLING), width * SUPERSAMPLING, height * SUPERSAMPLING
    views = Views(camera.K[None, None], camera.R[None, None], camera.t[None, None])
    planes = visible_planes(room.scenes, views)
    pixels = _pixel_grid(width, height)
    hits = trace(room.scenes, views, planes, pixels, torch.float32)
    index, slot, surface = planes.index[0, 0], hits.slot[0, 0], hits.surface[0, 0]
    # from (u/z, v/z, 1/z) to texels/z: one copy of the photo fills [-extent, extent]
    sizes = room.store.sizes.double()
    to_texels = torch.zeros(len(sizes), 3, 3, dtype=torch.float64)
    to_texels[:, [0, 1], [0, 1]] = sizes / (2 * room.extents)
    to_texels[:, :2, 2] = (sizes - 1) / 2
    to_texels[:, 2, 2] = 1
    m = (to_texels[index] @ planes.maps[0, 0]).float().flatten(1)[slot].T  # (9, pixels)
    x, y = pixels[0, 0].float()
    across, along, inverse_depth = (m[k] * x + m[k + 1] * y + m[k + 2] for k in (0, 3, 6))
    tx, ty = across / inverse_depth, along / inverse_depth
    jacobian = torch.stack([m[0] - tx * m[6], m[1] - tx * m[7], m[3] - ty * m[6], m[4] - ty * m[7]])
    colour = lookup(room.store, surface, torch.stack([tx, ty]), jacobian / inverse_depth)
    light = 0.7 + 0.3 * (room.scenes.outward[0] @ room.scenes.light[0]).clamp(min=0).float()
    image = F.avg_pool2d((colour * light[surface]).view(3, height, width), SUPERSAMPLING)
    return (255 * image).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def _floor_and_walls() -> list[Face]:
    floor = np.block([[[load_photo(file)[:512, :512]] for file in row] for row in FLOOR])
    x, y, z = np.eye(3)
    endless = (ENDLESS, ENDLESS)
    faces = [Face(np.zeros(3), x, -y, endless, floor, (2.6, 2.6))]
    for quarter, file in enumerate(WALLS):
        inward = _turn(quarter * 90 + 10) @ -y
        size = (WALL_DISTANCE, WALL_HEIGHT / 2)
        photo = centre_crop(load_photo(file), size[0] / size[1])
        centre = -WALL_DISTANCE * inward + z * WALL_HEIGHT / 2
        faces.append(Face(centre, np.cross(z, inward), -z, endless, photo, size))
    ceiling = load_photo("grass.png")
    return [*faces, Face(2 * WALL_HEIGHT * z, x, y, endless, ceiling, (2.6, 2.6))]


def _box(
    place: tuple[float, float], yaw: float, size: tuple[float, float, float], files: Sequence[str]
) -> list[Face]:
    """Six faces: opposite sides in a row, then top and bottom."""
    x, y, z = (_turn(yaw) @ np.eye(3)).T
    middle = np.array([*place, size[2] / 2])
    half = np.array(size) / 2
    front, right, back, left = (
        (-y, half[1], (half[0], half[2])),
        (x, half[0], (half[1], half[2])),
        (y, half[1], (half[0], half[2])),
        (-x, half[0], (half[1], half[2])),
    )
    faces = []
    for (outward, away, face), file in zip((front, back, right, left), (files[i] for i in (0, 2, 1, 3)), strict=True):
        photo = centre_crop(load_photo(file), face[0] / face[1])
        faces.append(Face(middle + away * outward, np.cross(z, outward), -z, face, photo, face))
    lid = (half[0], half[1])
    photo = centre_crop(load_photo(files[4]), lid[0] / lid[1])
    faces.append(Face(middle + half[2] * z, x, -y, lid, photo, lid))
    faces.append(Face(middle - half[2] * z, x, y, lid, photo, lid))
    return faces


def _turn(degrees: float) -> np.ndarray:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])


def _scaled(camera: Camera, factor: int) -> Camera:
    """The camera of the image enlarged `factor` times: x maps to (x + 0.5) factor - 0.5."""
    K = camera.K * torch.tensor([[factor], [factor], [1.0]], dtype=torch.float64)
    K[:2, 2] += (factor - 1) / 2
    return Camera(K, camera.R, camera.t)


def _pixel_grid(width: int, height: int) -> Float[Tensor, "1 1 2 m"]:
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    return torch.stack([columns.flatten(), rows.flatten()])[None, None]
