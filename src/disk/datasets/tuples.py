"""Tuples of posed images of one size, ready for training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from disk.datasets.files import Calibration, read_calibration, read_depth
from disk.datasets.records import PosedImage
from disk.datasets.scenes import Scene, SceneSet
from disk.errors import DatasetError
from disk.geometry.camera import Camera
from disk.images.orientation import AS_STORED, is_mirrored, to_stored, to_upright, upright_size
from disk.images.reading import Upright, image_orientation, image_size, read_upright
from disk.images.resizing import Placement, place, to_tensor
from disk.options import check_minimum
from disk.progress import track
from disk.shapes import Float, Int


class TupleDataset(torch.utils.data.Dataset[list[PosedImage]]):
    """The tuples of a data set as lists of PosedImage.

    Images are resized to fit into (height, width) and padded with zeros at the right and bottom; K and depth follow.
    The constructor reads all calibrations and checks that all images exist, so that faults show before training.
    scene_limit: maximum number of tuples per scene in one pass; None: no limit.

    Raises DatasetError for a missing or faulty file of the data set, ImageError for a damaged image.
    """

    def __init__(
        self, scene_set: SceneSet, height: int, width: int, scene_limit: int | None = None, seed: int = 0
    ) -> None:
        check_minimum("scene_limit", scene_limit, 1)
        self.scenes = scene_set.scenes
        self.height, self.width = height, width
        self.scene_limit, self.seed = scene_limit, seed
        self._calibrations = [
            _read_calibrations(scene) for scene in track(self.scenes, "calibrations", "scene", len(self.scenes))
        ]
        self.resample(0)

    def __len__(self) -> int:
        return len(self._chosen)

    def resample(self, epoch: int) -> None:
        """Draw the tuples for a pass over the data; the same seed and epoch give the same tuples.

        Their number does not depend on the epoch.
        """
        chosen = []
        for number, scene in enumerate(self.scenes):
            count = len(scene.tuples)
            indices = np.arange(count)
            if self.scene_limit is not None and count > self.scene_limit:
                generator = np.random.default_rng([self.seed, epoch, number])
                indices = np.sort(generator.choice(count, self.scene_limit, replace=False))
            chosen.append(np.stack([np.full_like(indices, number), indices], axis=1))
        self._chosen: Int[np.ndarray, "n 2"] = np.concatenate(chosen)

    def __getitem__(self, index: int) -> list[PosedImage]:
        number, row = self._chosen[index]
        scene, calibrations = self.scenes[number], self._calibrations[number]
        images = scene.tuples[row].tolist()
        # move the world origin to the first camera: georeferenced positions exceed the precision of float32
        first = calibrations[images[0]]
        origin = -first.R.T @ first.T
        return [
            load_posed_image(scene, scene.images[i], calibrations[i], origin, self.height, self.width) for i in images
        ]


def load_posed_image(
    scene: Scene,
    name: str,
    calibration: Calibration,
    origin: Float[np.ndarray, " 3"],
    height: int,
    width: int,
) -> PosedImage:
    """Read one image of a scene onto a (height, width) grid.

    The image is made upright by its EXIF orientation, but its calibration describes the image as stored. Turning the
    pixels is a rotation of the camera about its optical axis: it changes R, t and K, but no reward.
    origin: becomes the world origin.
    """
    image = _read_unmirrored(scene.image_file(name))
    pixels, placement = place(image.pixels, height=height, width=width, orientation=image.orientation)
    K, R, T = calibration
    to_canvas, turn = placement.from_original(), np.eye(3)
    turn[:2, :2] = np.sign(to_canvas[:2, :2])
    camera = Camera(
        K=torch.from_numpy(to_canvas @ K @ turn.T).float(),
        R=torch.from_numpy(turn @ R).float(),
        t=torch.from_numpy(turn @ (R @ origin + T)).float(),
    )
    depth_file = scene.depth_file(name)
    depth = None
    if depth_file is not None:
        depth = torch.from_numpy(_placed_depth(read_depth(depth_file), placement, height, width, depth_file))
    return PosedImage(to_tensor(pixels), camera, depth, f"{scene.name}/{name}")


def shown_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels of an image as `load_posed_image` orients it, from the header alone."""
    size, orientation = image_size(path), image_orientation(path)
    return size if is_mirrored(orientation) else upright_size(orientation, size)


def _read_unmirrored(path: Path) -> Upright:
    """Read an image upright; as stored if EXIF says it is mirrored, since no camera produces mirrored images."""
    image = read_upright(path)
    if is_mirrored(image.orientation):
        return Upright(to_stored(image.pixels, image.orientation), AS_STORED)
    return image


def _placed_depth(
    depth: Float[np.ndarray, "a b"], placement: Placement, height: int, width: int, path: Path
) -> Float[np.ndarray, "h w"]:
    """Resample depth to the canvas by nearest neighbour; 0 in the padding.

    The depth map covers the whole image as stored, but may be smaller, as COLMAP reduces them to save memory.
    """
    depth = to_upright(depth, placement.orientation)
    rows, columns = depth.shape
    scale_x, scale_y = placement.width / columns, placement.height / rows
    # rounding both grids to whole pixels may stretch one side more than the other
    if abs(scale_x / scale_y - 1) > 2 / min(rows, columns, placement.width, placement.height):
        raise DatasetError(f"{path}: the depth map, {columns} x {rows}, has a different aspect ratio than its image")
    x = ((np.arange(placement.width) + 0.5) / scale_x).astype(np.int64)
    y = ((np.arange(placement.height) + 0.5) / scale_y).astype(np.int64)
    canvas = np.zeros((height, width), dtype=np.float32)
    canvas[: placement.height, : placement.width] = depth[y[:, None], x[None, :]]
    return canvas


def _read_calibrations(scene: Scene) -> dict[int, Calibration]:
    """Read the calibrations of the images in tuples."""
    used: Sequence[int] = np.unique(scene.tuples).tolist()
    calibrations = {}
    for index in used:
        name = scene.images[index]
        path = scene.calibration_file(name)
        if path is None:
            raise DatasetError(
                f"scene {scene.name!r}: no calibration of {name} in {scene.calib_path}; "
                "`disk dataset check` lists all missing files"
            )
        if not scene.image_file(name).is_file():
            raise DatasetError(
                f"scene {scene.name!r}: no image {scene.image_path / name}; "
                "`disk dataset check` lists all missing files"
            )
        calibrations[index] = read_calibration(path)
    return calibrations
