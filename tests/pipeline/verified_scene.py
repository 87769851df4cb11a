"""A scene with weak pairs, exported and verified."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from disk.colmap.database import image_ids, open_database
from disk.pipeline.export import ExportOptions, export
from disk.pipeline.verify import VerifyOptions, VerifySummary, verify
from disk.storage.artifacts import read_matches
from synthetic_scene import Scene, make_scene, write_features, write_matches, write_photos

NAMES = ["a", "b", "c", "sub/d"]


def exported_scene(tmp_path: Path) -> Scene:
    """Artifacts in tmp_path, with one pair without matches and one with a few; exported to tmp_path/database.db."""
    scene = make_scene(NAMES, points=100)
    scene.matches["a", "b"] = np.zeros((2, 0), np.int64)
    scene.matches["a", "c"] = scene.matches["a", "c"][:, :7]
    write_features(scene, tmp_path)
    write_matches(scene, tmp_path)
    write_photos(scene, tmp_path / "photos")
    export_again(tmp_path)
    return scene


def export_again(tmp_path: Path) -> None:
    options = ExportOptions(database_path=tmp_path / "database.db", overwrite=True)
    export(tmp_path, tmp_path / "photos", options)


def run(tmp_path: Path, **options: object) -> VerifySummary:
    return verify(tmp_path, VerifyOptions(database_path=tmp_path / "database.db", **options))  # type: ignore[arg-type]


def inliers_of(tmp_path: Path) -> dict[tuple[str, str], list[list[int]]]:
    """Inliers of every pair, in inliers.h5 and in the database, which must agree."""
    with read_matches(tmp_path, "inliers.h5") as store, open_database(tmp_path / "database.db") as database:
        ids = image_ids(database)
        found = {pair: store[pair].tolist() for pair in store.pairs()}
        for (name0, name1), inliers in found.items():
            geometry = database.read_two_view_geometry(ids[name0], ids[name1])
            assert np.array_equal(np.reshape(geometry.inlier_matches, (-1, 2)).T, np.reshape(inliers, (2, -1)))
    return found
