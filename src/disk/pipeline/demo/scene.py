"""A rendered room of photographs: boxes covered with them on a patchwork floor, seen from an arc of cameras.

The world is right-handed with z up, its unit about a metre; the floor is z = 0 and the boxes stand around
the origin. Everything is flat, so that an image is one homography for each face.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from disk.datasets.synthesis.textures import PhotoStore, build_store, lookup
from disk.geometry.camera import Camera
from disk.images.resizing import Placement
from disk.pipeline.demo.photos import centre_crop, load_photo
from disk.shapes import Float, Int, Tensor, UInt8
from disk.viewing.cloud import looking_at

FLOOR = (("gravel.png", "grass.png"), ("brick.png", "moon.png"))
WALLS = ("hubble_deep_field.jpg", "retina.jpg", "ihc.png", "motorcycle_left.png")  # north, east, south, west
# where a box stands (x, y), its yaw in degrees, its size, and the photos on its front, right, back, left and
# top; the front faces the middle camera at yaw 0. No two faces that the cameras see well have the same photo:
# a matcher would be right to take one for the other
BOXES = (
    ((-0.1, 0.6), 15.0, (1.3, 0.5, 1.2), ("astronaut.png", "ihc.png", "grass.png", "rocket.jpg", "brick.png")),
    ((-0.9, -0.3), -30.0, (0.8, 0.6, 0.6), ("chelsea.png", "text.png", "grass.png", "page.png", "gravel.png")),
    ((0.8, -0.3), 40.0, (0.8, 0.7, 0.7), ("coffee.png", "moon.png", "grass.png", "camera.png", "retina.jpg")),
    ((0.0, -0.8), 8.0, (0.6, 0.4, 0.4), ("coins.png", "cell.png", "grass.png", "clock_motion.png", "grass.png")),
)
WALL_DISTANCE, WALL_HEIGHT = 4.6, 3.6
ROOM_YAW = 10.0  # degrees
STEP = 15.0  # degrees from one camera to the next, around the boxes
DISTANCE = 3.3
LIGHT = np.array([-0.3, -0.55, 0.78])  # the direction to it
SUPERSAMPLING = 2  # rays along a pixel's side
STRIP = 50  # rows rendered at once, to bound the memory


@dataclass(frozen=True)
class Face:
    """A flat rectangle: its centre, half its sides, to the right and down as one sees it, and its photo."""

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
    """Faces, and their photos as textures in the same order."""

    faces: list[Face]
    photos: PhotoStore


def build_room() -> Room:
    """The room of the demo: a floor, four walls, no ceiling, and the boxes."""
    faces = _floor_and_walls()
    for place, yaw, size, files in BOXES:
        faces += _box(place, yaw, size, files)
    return Room(faces, build_store(face.photo for face in faces))


def orbit(count: int, width: int, height: int) -> list[Camera]:
    """`count` cameras along an arc, one low and one high in turn, all looking at the boxes."""
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
    """The room from one camera: each pixel the mean over a grid of rays, textures filtered for their spacing."""
    scale = float(SUPERSAMPLING)
    finer = Placement(width * SUPERSAMPLING, height * SUPERSAMPLING, scale, scale)
    K = torch.from_numpy(finer.from_original()) @ camera.K
    maps, shown = _plane_maps(room, Camera(K, camera.R, camera.t))
    sizes = room.photos.sizes[shown].double()
    # from (u, v, 1) in [-1, 1] to texels (x, y, 1): the photo fills the face
    to_texels = torch.diag_embed(torch.cat([sizes / 2, torch.ones(len(sizes), 1)], dim=1))
    to_texels[:, :2, 2] = (sizes - 1) / 2
    texels = (to_texels @ maps).float().flatten(1)
    light = torch.tensor([0.7 + 0.3 * max(0.0, float(room.faces[face].outward @ LIGHT)) for face in shown])
    strips = []
    for top in range(0, height, STRIP):
        rows, columns = min(STRIP, height - top) * SUPERSAMPLING, width * SUPERSAMPLING
        y, x = torch.meshgrid(torch.arange(rows) + top * SUPERSAMPLING, torch.arange(columns), indexing="ij")
        pixels = torch.stack([x, y]).flatten(1).float()
        nearest, is_hit = _first_hit(maps.float(), pixels)
        position, jacobian = _texel_positions(texels[nearest].T, pixels)
        colour = lookup(room.photos, shown[nearest], position, jacobian) * light[nearest] * is_hit
        strips.append(F.avg_pool2d(colour.view(3, rows, columns), SUPERSAMPLING))
    image = (255 * torch.cat(strips, dim=1)).round().clamp(0, 255).byte()
    return image.permute(1, 2, 0).numpy()


def _plane_maps(room: Room, camera: Camera) -> tuple[Float[Tensor, "q 3 3"], Int[Tensor, " q"]]:
    """Maps from pixels (x, y, 1) to (u, v, 1) / z on each face turned to the camera, and which faces these are.

    u and v run from -1 to 1 over a face: a point of it is centre + u right + v down = z K^-1 (x, y, 1) for the
    camera.
    """
    eye = camera.centre.numpy()
    shown = [i for i, face in enumerate(room.faces) if (eye - face.centre) @ face.outward > 0]
    bases = np.stack([np.stack([f.right, f.down, f.centre], axis=1) for f in (room.faces[i] for i in shown)])
    in_camera = camera.R @ torch.from_numpy(bases)
    in_camera[:, :, 2] += camera.t
    return torch.linalg.inv(camera.K @ in_camera), torch.tensor(shown)


def _first_hit(
    maps: Float[Tensor, "q 3 3"], pixels: Float[Tensor, "2 m"]
) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
    """The face each ray meets first, and 1 for rays that meet any, else 0.

    A ray is inside where |u/z| and |v/z| are at most 1/z, and the nearest face has the largest 1/z.
    """
    u, v, w = maps[:, :, :2].transpose(0, 1) @ pixels + maps[:, :, 2].T[..., None]
    best = (w * (torch.maximum(u.abs(), v.abs()) <= w)).max(0)
    return best.indices, (best.values > 0).float()


def _texel_positions(
    maps: Float[Tensor, "9 m"], pixels: Float[Tensor, "2 m"]
) -> tuple[Float[Tensor, "2 m"], Float[Tensor, "4 m"]]:
    """Texels under pixels, each with its own map (row by row), and dx/dx', dx/dy', dy/dx', dy/dy' there."""
    across, along, inverse_depth = (maps[k] * pixels[0] + maps[k + 1] * pixels[1] + maps[k + 2] for k in (0, 3, 6))
    x, y = across / inverse_depth, along / inverse_depth
    jacobian = torch.stack([maps[i] - at * maps[j] for i, at, j in ((0, x, 6), (1, x, 7), (3, y, 6), (4, y, 7))])
    return torch.stack([x, y]), jacobian / inverse_depth


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
    sides = ((-y, x), (x, y), (y, -x), (-x, -y))  # to the face, and to its right
    faces = [_covered(middle + to, right, -z, file) for (to, right), file in zip(sides, files[:4], strict=True)]
    return [*faces, _covered(middle + z, x, -y, files[4])]


def _covered(centre: np.ndarray, right: np.ndarray, down: np.ndarray, file: str) -> Face:
    photo = centre_crop(load_photo(file), float(np.linalg.norm(right) / np.linalg.norm(down)))
    return Face(centre, right, down, photo)


def _turned_axes(yaw: float) -> np.ndarray:
    """The axes x, y, z, turned about z."""
    cos, sin = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1.0]])
