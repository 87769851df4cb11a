"""Gives undistorted COLMAP workspaces dense depth maps on a CPU, for training with the depth reward.

    python recipes/dense_depth.py SCENE... [--size 640]

Needs OpenCV and pycolmap: `pip install disk-features[sfm,baselines]`. Each SCENE contains `images/` and `sparse/` with
pinhole cameras. Writes SCENE/stereo/depth_maps/NAME.geometric.bin, which `disk dataset import-colmap SCENE` reads, and
reports how well they agree with the model's sparse points. Existing maps are replaced.

Each image is matched with up to six neighbours by semi-global matching, with a left-right check. A pixel keeps the
median of the depths that at least two neighbours agree on; the others are 0, unknown. A wall without texture and
anything that moves therefore has no depth. COLMAP's own dense stereo is better, but needs a CUDA GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pycolmap
import tyro

from disk.colmap.workspace import WorkspaceImage, open_model, open_workspace, usable_images
from disk.errors import ColmapError, DiskError
from disk.images.reading import read_image
from disk.images.resizing import place
from disk.progress import log, setup, track
from disk.shapes import Float, UInt8

NEIGHBOURS = 6
ANGLES = (3, 40)  # median triangulation angle of the points that two neighbours share, in degrees
MIN_SHARED = 20  # points
TOLERANCE = 0.01  # relative difference of depths that agree
REPORTED = 0.02  # relative error whose share is reported
# maximum number of pixels of a rectified image over that of the image, and smallest scale at which it is kept below; a
# camera that moves forward or is turned far stretches it
MAX_PIXELS, MIN_SCALE = 3, 0.4
MARGIN = 0.15  # by which the range of disparities exceeds that of the sparse points, relative to its length
MIN_COVERAGE = 0.05  # share of pixels; an image with less gets no map and is trained on with the epipolar reward
BLOCK = 5  # side of the blocks that are matched, in pixels


@dataclass(frozen=True, eq=False)
class View:
    """A reduced image in grey with its camera, x_cam = R x_world + t, and the sparse points it sees, by id."""

    name: str
    grey: UInt8[np.ndarray, "h w"]
    K: Float[np.ndarray, "3 3"]
    R: Float[np.ndarray, "3 3"]
    t: Float[np.ndarray, " 3"]
    points: dict[int, Float[np.ndarray, " 3"]]

    @property
    def centre(self) -> Float[np.ndarray, " 3"]:
        """Camera centre in world coordinates."""
        return -self.R.T @ self.t


class Agreement(NamedTuple):
    """How a depth map agrees with depths that are known: share of its pixels with a depth, and relative errors."""

    coverage: float
    errors: Float[np.ndarray, " n"]


def main(scenes: tyro.conf.Positional[tuple[Path, ...]], size: int = 640) -> None:
    """Write the depth maps of each scene.

    scenes: undistorted COLMAP workspaces.
    size: long side of the depth maps in pixels; smaller images keep their size.
    """
    setup(quiet=False)
    for scene in scenes:
        found = list(dense_depth(scene, size))
        coverages, errors = [one.coverage for one in found], np.concatenate([one.errors for one in found])
        errors = errors if len(errors) else np.array([np.nan])
        log.info(
            "%s: depth in %d of %d images, %.0f %% of pixels; at %d points: median error %.2f %%, %.0f %% < %.0f %%",
            *(scene, np.count_nonzero(coverages), len(found), 100 * np.mean(coverages), len(errors)),
            *(100 * np.median(errors), 100 * np.mean(errors < REPORTED), 100 * REPORTED),
        )


def dense_depth(scene: Path, size: int) -> Iterator[Agreement]:
    """Write the depth map of each image of a workspace, and compare it with the sparse points.

    Raises ColmapError for a model that cannot be read or is not undistorted, ImageError for a damaged image.
    """
    views = read_views(scene, size)
    folder = scene / "stereo" / "depth_maps"
    for view in track(views, f"{scene.name}: depth maps", "image"):
        found = (stereo(view, other) for other in neighbours(view, views))
        depths = islice((depth for depth in found if depth is not None), NEIGHBOURS)
        depth = fuse(list(depths), view.grey.shape)
        path = folder / f"{view.name}.geometric.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        coverage = float((depth > 0).mean())
        if coverage < MIN_COVERAGE:
            yield Agreement(0, np.zeros(0))
            continue
        pycolmap.DepthMap.from_array(depth, 0, float(depth.max())).write(path)
        yield Agreement(coverage, errors_at_points(view, depth))


def read_views(scene: Path, size: int) -> list[View]:
    """Read the posed images of a workspace, with a long side of at most `size` pixels."""
    source = open_workspace(scene)
    if source.distorted:
        raise ColmapError(f"{scene}: the model has {', '.join(source.distorted)} cameras; run `disk undistort` first")
    world = {number: point.xyz for number, point in open_model(source.model).points3D.items()}
    usable, faults = usable_images(source)
    for fault in faults.values():
        log.warning("skipped: %s", fault)
    if not usable:
        raise ColmapError(f"{source.image_folder}: none of the model's images can be used")

    def view(image: WorkspaceImage) -> View:
        pixels, placement = place(read_image(source.image_folder / image.name), max_size=size)
        points = {number: world[number] for number in image.points.tolist()}
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        return View(image.name, grey, placement.from_original() @ image.K, image.R, image.t, points)

    return [view(image) for image in usable]


def neighbours(view: View, views: Sequence[View]) -> list[View]:
    """The images at a suitable angle to a view, those that share the most sparse points first."""
    candidates = []
    for other in views:
        shared = [view.points[number] for number in view.points.keys() & other.points.keys()]
        if other is view or len(shared) < MIN_SHARED:
            continue
        angles = [pycolmap.calculate_triangulation_angle(view.centre, other.centre, point) for point in shared]
        if ANGLES[0] <= np.degrees(np.median(angles)) <= ANGLES[1]:
            candidates.append((len(shared), other))
    candidates.sort(key=lambda candidate: -candidate[0])
    return [other for _, other in candidates]


def stereo(view: View, other: View) -> Float[np.ndarray, "h w"] | None:
    """Depth of a view by stereo with another one; nan where unknown. None if the pair cannot be rectified.

    cv2.stereoRectify would arrange cameras above each other vertically, which StereoSGBM cannot match. Here, the new x
    axis always points from the view to the other one, so a point lies further left in the other image.
    """
    x = other.centre - view.centre
    baseline = float(np.linalg.norm(x))
    y = np.cross(view.R[2] + other.R[2], x)
    axes = np.stack([x / baseline, y / np.linalg.norm(y), np.cross(x, y) / np.linalg.norm(np.cross(x, y))])
    # from pixels to rays in the rectified camera; the third coordinate is that along its optical axis per unit of depth
    rays, other_rays = (axes @ one.R.T @ np.linalg.inv(one.K) for one in (view, other))
    height, width = view.grey.shape
    corners = rays @ np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
    along = (np.array(list(view.points.values())) - view.centre) @ axes[2]
    if (corners[2] <= 0).any() or (along <= 0).all():
        return None
    seen = corners[:2] / corners[2]
    scale = min(1, float(np.sqrt(MAX_PIXELS * height * width / np.prod(np.ptp(seen, axis=1)))) / view.K[0, 0])
    focal = scale * view.K[0, 0]
    left, top = np.floor(focal * seen.min(1)).astype(int).tolist()
    right, bottom = np.ceil(focal * seen.max(1)).astype(int).tolist()
    low, high = np.quantile(focal * baseline / along[along > 0], (0.01, 0.99))
    margin = MARGIN * (high - low) + 1
    first = max(low - margin, 1)  # the smallest disparity
    count = 16 * int(np.ceil((high + margin - first) / 16))
    if scale < MIN_SCALE or count > max(height, width):
        return None
    # StereoSGBM leaves the first `count` columns unknown
    size = (right - left + count, bottom - top)
    to_rectified = np.array([[focal, 0, count - left], [0, focal, -top], [0, 0, 1]])
    to_other = np.array([[focal, 0, count - left + first], [0, focal, -top], [0, 0, 1]])
    matcher = cv2.StereoSGBM.create(
        0, count, BLOCK, P1=8 * BLOCK**2, P2=32 * BLOCK**2, disp12MaxDiff=1, preFilterCap=63, uniquenessRatio=5,
        speckleWindowSize=100, speckleRange=2,
    )  # fmt: skip
    disparity = matcher.compute(
        cv2.warpPerspective(view.grey, to_rectified @ rays, size),
        cv2.warpPerspective(other.grey, to_other @ other_rays, size),
    )
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    found = cv2.warpPerspective(disparity, to_rectified @ rays, (width, height), flags=flags, borderValue=(-1,))
    rows, columns = np.mgrid[:height, :width]
    per_depth = rays[2, 0] * columns + rays[2, 1] * rows + rays[2, 2]
    return np.where(found >= 0, focal * baseline / (np.maximum(found, 0) / 16 + first) / per_depth, np.nan)


def fuse(depths: Sequence[Float[np.ndarray, "h w"]], shape: tuple[int, ...]) -> Float[np.ndarray, "h w"]:
    """The median of the depths that agree with one of them, where most do and at least two; 0 elsewhere."""
    fused, most = np.zeros(shape, np.float32), np.ones(shape, np.int64)
    for depth in depths:
        agreeing = np.stack([np.where(np.abs(one - depth) < TOLERANCE * depth, one, np.nan) for one in depths])
        count = np.isfinite(agreeing).sum(0)
        better = count > most
        fused[better] = np.nanmedian(agreeing[:, better], axis=0)
        most = np.maximum(most, count)
    return fused


def errors_at_points(view: View, depth: Float[np.ndarray, "h w"]) -> Float[np.ndarray, " n"]:
    """Relative errors of a depth map at the sparse points of its view, where it has a depth."""
    in_camera = np.array(list(view.points.values())).reshape(-1, 3) @ view.R.T + view.t
    pixels = in_camera @ view.K.T
    columns, rows = (pixels[:, :2] / pixels[:, 2:]).round().astype(np.int64).T
    inside = (columns >= 0) & (columns < depth.shape[1]) & (rows >= 0) & (rows < depth.shape[0])
    found, expected = depth[rows[inside], columns[inside]], in_camera[inside, 2]
    return np.abs(found - expected)[found > 0] / expected[found > 0]


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except DiskError as error:
        sys.exit(str(error))
