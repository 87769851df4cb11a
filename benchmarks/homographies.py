"""Makes three sets of pairs with known homographies from photos: what changes of view and light do features survive?

    python benchmarks/homographies.py OUT PHOTO...
    disk evaluate homography OUT/planes     # the photo as a plane under tilt (25 to 68 degrees) and zoom (0.45 to 1.8)
    disk evaluate homography OUT/turns      # turned by about 0, 45, 90, 135 and 180 degrees
    disk evaluate homography OUT/night      # lit by a few lamps, with shot noise, seen from almost the same place

Each photo becomes a sequence of six images in the format of HPatches, the first one a reduced copy. The sets depend
only on the photos and their order. Needs OpenCV: `pip install 'disk-features[baselines]'`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import tyro

from disk.errors import DiskError
from disk.images.reading import read_image
from disk.progress import setup, track
from disk.shapes import Float, UInt8

KINDS = ("planes", "turns", "night")
SOURCE, VIEW = 1400, 640  # long sides of the photo that is warped, and of the images, in pixels
OVERSAMPLING = 3
FOCAL = 1.2  # times the long side
GREY = (110, 110, 110)  # beyond the photo
GAMMA = 2.2

Image = UInt8[np.ndarray, "h w 3"]
Homography = Float[np.ndarray, "3 3"]


def main(out: tyro.conf.Positional[Path], photos: tyro.conf.Positional[tuple[Path, ...]]) -> None:
    """Write OUT/planes, OUT/turns and OUT/night."""
    setup(quiet=False)
    if len({path.stem for path in photos}) < len(photos):
        raise DiskError("two photos have the same name; each needs its own folder")
    for kind in KINDS:
        if (out / kind).exists():
            raise DiskError(f"{out / kind} exists; choose another folder")
    for number, path in enumerate(track(photos, "sequences", "photo")):
        generator = np.random.default_rng(number)
        photo = read_image(path)
        if max(photo.shape) > SOURCE:
            scale = SOURCE / max(photo.shape)
            photo = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        to_first, size = reduction(photo)
        first = warp(photo, to_first, size)
        for kind in KINDS:
            folder = out / kind / f"{'i' if kind == 'night' else 'v'}_{path.stem}"
            folder.mkdir(parents=True)
            write(folder / "1.png", first)
            for k in range(2, 7):
                there = draw(kind, k, generator, (photo.shape[0], photo.shape[1]), size)
                image = warp(photo, there, size)
                write(folder / f"{k}.png", at_night(image, generator) if kind == "night" else image)
                from_first = there @ np.linalg.inv(to_first)
                np.savetxt(folder / f"H_1_{k}", from_first / from_first[2, 2])


def reduction(photo: Image) -> tuple[Homography, tuple[int, int]]:
    """The map from pixels of the photo to those of image 1; height and width of all images of the photo."""
    scale = min(VIEW, max(photo.shape)) / max(photo.shape)
    height, width = round(photo.shape[0] * scale), round(photo.shape[1] * scale)
    centre = _shift(-(photo.shape[1] - 1) / 2, -(photo.shape[0] - 1) / 2)
    return _shift((width - 1) / 2, (height - 1) / 2) @ np.diag([scale, scale, 1]) @ centre, (height, width)


def draw(
    kind: str, k: int, generator: np.random.Generator, photo: tuple[int, int], size: tuple[int, int]
) -> Homography:
    """A random map from pixels of the photo to those of image k."""
    uniform, normal, pi = generator.uniform, generator.normal, np.pi
    if kind == "planes":
        zoom, tilt = np.exp(uniform(np.log(0.45), np.log(1.8))), np.radians(uniform(25, 68))
        return seen_from(photo, size, zoom, tilt, uniform(-pi, pi), np.radians(normal(0, 20)))
    if kind == "turns":
        zoom, about = uniform(0.75, 1), uniform(-pi, pi)
        return seen_from(photo, size, zoom, 0.2, about, np.radians((0, 45, 90, 135, 180)[k - 2] + uniform(-15, 15)))
    zoom, tilt = uniform(0.8, 1.2), np.radians(uniform(0, 25))
    return seen_from(photo, size, zoom, tilt, uniform(-pi, pi), np.radians(normal(0, 5)))


def seen_from(
    photo: tuple[int, int], size: tuple[int, int], zoom: float, tilt: float, about: float, roll: float
) -> Homography:
    """The map from pixels of a photo on a plane to those of a camera that looks at its centre.

    zoom: 1 if the photo just fits into the image when it is not tilted.
    about: direction of the axis that the plane is tilted about.
    """
    height, width = size
    focal = FOCAL * max(size)
    fit = min(width / photo[1], height / photo[0])
    c, s = np.cos(tilt), np.sin(tilt)
    rotation = _turn(roll) @ _turn(about) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ _turn(-about)
    pose = np.column_stack([rotation[:, 0], rotation[:, 1], [0, 0, focal / (fit * zoom)]])
    centre = _shift(-(photo[1] - 1) / 2, -(photo[0] - 1) / 2)
    return _shift((width - 1) / 2, (height - 1) / 2) @ np.diag([focal, focal, 1]) @ pose @ centre


def warp(photo: Image, there: Homography, size: tuple[int, int]) -> Image:
    """The image that a homography makes of a photo, without aliasing."""
    height, width = size
    k = OVERSAMPLING
    there = _shift((k - 1) / 2, (k - 1) / 2) @ np.diag([k, k, 1]) @ there
    centre = there @ np.array([photo.shape[1] / 2, photo.shape[0] / 2, 1])
    density = abs(np.linalg.det(there)) / abs(centre[2]) ** 3  # pixels of the large image per pixel of the photo
    level, to_level = photo, np.eye(3)
    while density < 0.3 and min(level.shape[:2]) > 64:
        level = cv2.resize(level, (level.shape[1] // 2, level.shape[0] // 2), interpolation=cv2.INTER_AREA)
        fx, fy = level.shape[1] / photo.shape[1], level.shape[0] / photo.shape[0]
        to_level = _shift((fx - 1) / 2, (fy - 1) / 2) @ np.diag([fx, fy, 1])
        density *= 4
    large = cv2.warpPerspective(
        level, there @ np.linalg.inv(to_level), (width * k, height * k), flags=cv2.INTER_CUBIC, borderValue=GREY
    )
    return cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)


def at_night(image: Image, generator: np.random.Generator) -> Image:
    """The image lit by a blue sky and two to five warm lamps, with the sensor's noise, as a JPEG."""
    uniform = generator.uniform
    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    light = np.zeros((height, width, 3))
    for _ in range(generator.integers(2, 6)):
        x, y, radius = uniform(0, width), uniform(0, height), uniform(0.08, 0.35) * width
        distance = ((columns - x) ** 2 + (rows - y) ** 2) / radius**2
        power = uniform(0.3, 1.2)
        light += (power / (1 + distance) ** 1.5)[..., None] * np.array([1, uniform(0.55, 0.85), uniform(0.2, 0.6)])
    lit = (image / 255) ** GAMMA * (light + 0.04 * np.array([0.35, 0.5, 1]))
    lit += 0.02 * cv2.GaussianBlur(lit, (0, 0), width / 40)  # stray light in the lens
    electrons = uniform(150, 700)  # of a white pixel
    lit = lit * uniform(1, 2.5)
    lit = generator.poisson(np.clip(lit, 0, 1.2) * electrons) / electrons + generator.normal(
        0, 3 / electrons, lit.shape
    )
    noisy = (np.clip(lit, 0, 1) ** (1 / GAMMA) * 255).round().astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(generator.integers(50, 85))]
    stored = cv2.imencode(".jpg", np.ascontiguousarray(noisy[..., ::-1]), quality)[1]
    return np.ascontiguousarray(cv2.imdecode(stored, cv2.IMREAD_COLOR)[..., ::-1])


def write(path: Path, image: Image) -> None:
    """Write an image without loss."""
    cv2.imwrite(str(path), np.ascontiguousarray(image[..., ::-1]))


def _shift(x: float, y: float) -> Homography:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])


def _turn(angle: float) -> Homography:
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except DiskError as error:
        sys.exit(str(error))
