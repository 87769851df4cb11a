"""Reads a whole data set to find its faults before training does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from disk.datasets.files import Calibration, read_calibration
from disk.datasets.records import PosedImage
from disk.datasets.scenes import Scene, SceneSet
from disk.datasets.tuples import load_posed_image, shown_size
from disk.errors import DatasetError, DiskError
from disk.geometry.camera import project, unproject
from disk.options import AnyPath
from disk.progress import counted, progress_bar
from disk.shapes import Float, Tensor

_SIZE = 64  # long side of the thumbnails on which overlap is tested
_LEAST_OVERLAP = 0.01  # fraction of the pixels with known depth that the other image must see
_DEPTH_TOLERANCE = 0.1  # relative difference up to which two depth maps show the same surface
_RAY_DEPTHS = torch.logspace(-2, 3, 60)  # in units of the distance between the two cameras


@dataclass(frozen=True)
class SceneReport:
    """Contents of a scene and its problems, one line each."""

    name: str
    images: int
    with_depth: int
    tuples: int
    problems: list[str]


def check(data: AnyPath) -> list[SceneReport]:
    """Read every image, calibration and depth map of a data set, and check that the images of its tuples overlap.

    data: a dataset.json, its folder, or a folder with train/ and test/.

    Raises DatasetError if a dataset.json is malformed.
    """
    data = Path(data)
    parts = [data / part for part in ("train", "test") if (data / part / "dataset.json").is_file()]
    scenes = [scene for part in parts or [data] for scene in SceneSet.load(part).scenes]
    return [check_scene(scene) for scene in scenes]


def check_scene(scene: Scene) -> SceneReport:
    """Read every file of one scene and check that the images of its tuples overlap."""
    problems: list[str] = []
    views: dict[int, PosedImage] = {}
    origin: Float[np.ndarray, " 3"] | None = None
    with_depth = 0
    with progress_bar(scene.name, "image", len(scene.images)) as bar:
        for index, name in enumerate(scene.images):
            bar.update(1)
            with_depth += scene.depth_file(name) is not None
            try:
                calibration = _calibration(scene, name)
                if origin is None:
                    origin = -calibration.R.T @ calibration.T
                views[index] = view = _thumbnail(scene, name, calibration, origin)
            except DiskError as error:
                problems.append(str(error))
                continue
            problems += [f"{name}: {fault}" for fault in _faults(view)]
    pairs = Counter(tuple(pair) for indices in scene.tuples.tolist() for pair in combinations(sorted(indices), 2))
    with progress_bar(f"{scene.name}: overlap", "pair", len(pairs)) as bar:
        for (first, second), count in sorted(pairs.items()):
            bar.update(1)
            if first in views and second in views and not overlap(views[first], views[second]):
                names = f"{scene.images[first]} and {scene.images[second]}"
                problems.append(f"{names} do not overlap, but share {counted(count, 'tuple')}")
    return SceneReport(scene.name, len(scene.images), with_depth, len(scene.tuples), problems)


def overlap(view1: PosedImage, view2: PosedImage) -> bool:
    """Whether two images can show the same surface.

    With a depth map: at least 1 % of its known pixels project into the other image, at the depth known there. Without:
    the fields of view of the two cameras intersect.
    """
    both = [(view1, view2), (view2, view1)]
    known = [(a, b) for a, b in both if a.depth is not None and bool((a.depth > 0).any())]
    if known:
        return any(_seen_share(a, b) >= _LEAST_OVERLAP for a, b in known)
    return any(bool(_in_view(b, _rays(a, b)).any()) for a, b in both)


def _calibration(scene: Scene, name: str) -> Calibration:
    path = scene.calibration_file(name)
    if path is None:
        raise DatasetError(f"no calibration of {name} in {scene.calib_path}")
    return read_calibration(path)


def _thumbnail(scene: Scene, name: str, calibration: Calibration, origin: Float[np.ndarray, " 3"]) -> PosedImage:
    """The whole image, downscaled without padding."""
    width, height = shown_size(scene.image_file(name))
    scale = _SIZE / max(width, height)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return load_posed_image(scene, name, calibration, origin, *size)


def _faults(view: PosedImage) -> Iterator[str]:
    height, width = view.image.shape[1:]
    centre = (view.camera.K[:2, 2] + 0.5) / view.camera.K.new_tensor([width, height])
    if not bool(((centre > 0.1) & (centre < 0.9)).all()):
        yield "the principal point is far from the image centre; was the image resized without its K?"
    if view.depth is not None and not (view.depth > 0).any():
        yield "the depth map has no known pixel"


def _seen_share(view: PosedImage, other: PosedImage) -> float:
    """Fraction of the pixels of `view` with known depth that `other` sees."""
    assert view.depth is not None
    rows, columns = torch.nonzero(view.depth > 0, as_tuple=True)
    points = unproject(view.camera, torch.stack([columns, rows], dim=1).float(), view.depth[rows, columns])
    seen = _in_view(other, points)
    if other.depth is not None and bool(seen.any()):
        pixels, depth = project(other.camera, points[seen])
        x, y = pixels.round().long().unbind(dim=1)
        there = other.depth[y, x]
        seen[seen.clone()] = (there == 0) | ((there - depth).abs() < _DEPTH_TOLERANCE * depth)
    return seen.float().mean().item()


def _in_view(view: PosedImage, points: Float[Tensor, "n 3"]) -> Tensor:
    """Which world points project onto a pixel of the image."""
    pixels, depth = project(view.camera, points)
    height, width = view.image.shape[1:]
    inside = (pixels > -0.5) & (pixels < pixels.new_tensor([width - 0.5, height - 0.5]))
    return (depth > 0) & inside.all(dim=1)


def _rays(view: PosedImage, other: PosedImage) -> Float[Tensor, "n 3"]:
    """Points in front of `view`, on a grid of its pixels, at near to far depths."""
    height, width = view.image.shape[1:]
    rows, columns = torch.linspace(0, height - 1, 9), torch.linspace(0, width - 1, 9)
    centres = [posed.camera.centre for posed in (view, other)]
    unit = torch.linalg.vector_norm(centres[0] - centres[1]).clamp(min=1e-6)
    grid = torch.cartesian_prod(columns, rows, _RAY_DEPTHS * unit)
    return unproject(view.camera, grid[:, :2], grid[:, 2])
