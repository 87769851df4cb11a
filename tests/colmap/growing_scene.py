"""A scene of which parts are mapped, one after the other, and what a test asks of its models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from disk.colmap.database import image_ids, open_database, write_database
from disk.colmap.growing import Growth, grow_models
from disk.colmap.mapping import Mapper, map_images
from disk.colmap.models import Model
from disk.colmap.plan import plan_cameras
from disk.colmap.verification import verify_pairs
from disk.images.listing import list_images
from disk.storage.artifacts import read_features, read_matches
from synthetic_scene import Scene, make_scene, write_features, write_matches, write_photos

NAMES = ["b", "c", "d", "e", "f", "h"]
ALL = ["a", *NAMES[:-1], "g", "h"]  # a sorts before the others, g among them
NOISE = 0.25  # pixels; without noise nothing would move, regardless of the mapper


def noisy_scene() -> Scene:
    """The scene of all images, seen with noise."""
    made = make_scene(ALL, points=150, wrong=5)
    rng = np.random.default_rng(5)
    for name, keypoints in made.keypoints.items():
        made.keypoints[name] = (keypoints + rng.normal(0, NOISE, keypoints.shape)).astype(np.float32)
    return made


def part(scene: Scene, names: list[str], pairs: list[tuple[str, str]] | None = None) -> Scene:
    wanted = [pair for pair in scene.matches if set(pair) <= set(names) and (pairs is None or pair in pairs)]
    return replace(scene, names=names, matches={pair: scene.matches[pair] for pair in wanted})


def prepare(scene: Scene, folder: Path, camera_per: Any = "collection") -> None:
    """Replace the artifacts, photos and verified database in a folder by those of a scene."""
    for path in [*folder.glob("*.h5"), *folder.glob("photos/*")]:
        path.unlink()
    write_features(scene, folder)
    write_matches(scene, folder)
    files = list_images(write_photos(scene, folder / "photos"))
    with read_features(folder) as features, read_matches(folder) as matches:
        write_database(folder / "database.db", plan_cameras(files, "SIMPLE_PINHOLE", camera_per), features, matches)
    with open_database(folder / "database.db") as database:
        ids = image_ids(database)
        pairs = [(ids[a], ids[b]) for a, b in scene.matches]
        todo = [pair for pair in pairs if not database.exists_two_view_geometry(*pair)]
        list(verify_pairs(database, todo, 4.0, 15, 0))


def files_in(folder: Path) -> dict[str, Path]:
    return {file.relative: file.path for file in list_images(folder / "photos")}


def map_from_scratch(folder: Path, mapper: Mapper = "incremental") -> list[Model]:
    return map_images(folder / "database.db", files_in(folder), folder / "sparse", mapper)


def grow(folder: Path, **options: Any) -> tuple[list[Model], Growth]:
    return grow_models(folder / "database.db", files_in(folder), folder / "sparse", **options)


def read(folder: Path, number: int = 0) -> Any:
    import pycolmap

    return pycolmap.Reconstruction(folder / "sparse" / str(number))


def ids(model: Any) -> dict[str, tuple[int, int, int]]:
    return {
        image.name: (image_id, image.camera_id, image.frame_id)
        for image_id, image in model.images.items()
        if image_id in model.reg_image_ids()
    }


def observed(model: Any) -> dict[int, set[tuple[int, int]]]:
    return {
        point_id: {(seen.image_id, seen.point2D_idx) for seen in point.track.elements}
        for point_id, point in model.points3D.items()
    }


def poses(model: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    found = {name: model.image(image_id).cam_from_world() for name, (image_id, _, _) in ids(model).items()}
    return {name: (pose.rotation.matrix(), pose.inverse().translation) for name, pose in found.items()}


def jpg(names: list[str]) -> list[str]:
    return [f"{name}.jpg" for name in names]
