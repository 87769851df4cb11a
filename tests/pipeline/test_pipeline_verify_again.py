"""disk verify a second time: after new exports, and with new or changed images, matches and cameras."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from verified_scene import export_again, exported_scene, inliers_of, run

from disk.colmap.database import image_ids, open_database
from disk.errors import ArtifactError, ColmapError
from disk.pipeline.export import ExportOptions, export
from disk.pipeline.verify import VerifyOptions, verify
from synthetic_scene import Scene, make_scene, write_features, write_matches, write_photos


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return exported_scene(tmp_path)


def test_inliers_of_an_earlier_version_are_computed_again(scene: Scene, tmp_path: Path) -> None:
    run(tmp_path)
    with h5py.File(tmp_path / "inliers.h5", "r+") as file:
        file.attrs["format"], file.attrs["cameras"] = "disk inliers 3", "0123456789abcdef"
    assert run(tmp_path).verified == 6
    assert run(tmp_path).verified == 0


def geometries(tmp_path: Path) -> dict[int, tuple[object, ...]]:
    """The database's rows of all verified pairs, byte for byte, by COLMAP's pair id."""
    with contextlib.closing(sqlite3.connect(tmp_path / "database.db")) as database:
        return {row[0]: row[1:] for row in database.execute("SELECT * FROM two_view_geometries")}


def test_an_identical_new_export_keeps_verified_pairs(scene: Scene, tmp_path: Path) -> None:
    run(tmp_path)
    before = geometries(tmp_path)
    export_again(tmp_path)
    assert geometries(tmp_path) == before
    assert len(before) == 6
    assert run(tmp_path).verified == 0
    (tmp_path / "database.db").unlink()
    export_again(tmp_path)
    assert run(tmp_path).verified == 6
    assert geometries(tmp_path) == before


def part_of(scene: Scene, names: list[str]) -> Scene:
    pairs = {pair: found for pair, found in scene.matches.items() if set(pair) <= set(names)}
    return replace(scene, names=names, matches=pairs)


def test_new_images_are_verified_alone_with_the_result_of_a_full_run(tmp_path: Path) -> None:
    """Their names sort before, between and after the others, although their ids are higher."""
    scene = make_scene(["a", "b", "c", "d", "e"], points=100)
    at_once, grown = tmp_path / "at once", tmp_path / "grown"
    for names, folder in ((scene.names, at_once), (["b", "d"], grown)):
        write_features(part_of(scene, names), folder)
        write_matches(part_of(scene, names), folder)
        write_photos(part_of(scene, names), folder / "photos")
        export_again(folder)
        run(folder)
    before = geometries(grown)
    write_features(scene, grown)
    with h5py.File(grown / "inliers.h5") as file:
        kept = file["b"]["d"][()]
    (grown / "matches.h5").unlink()
    write_matches(scene, grown)
    write_photos(scene, grown / "photos")
    export_again(grown)
    assert geometries(grown) == before
    assert run(grown).verified == 9
    with open_database(grown / "database.db") as database:
        assert image_ids(database) == {"b": 1, "d": 2, "a": 3, "c": 4, "e": 5}
        assert [database.read_image(number).camera_id for number in range(1, 6)] == [1, 2, 3, 4, 5]
    found = inliers_of(grown)
    assert found == inliers_of(at_once)
    assert found["b", "d"] == kept.tolist()


def test_changed_images_and_matches_are_verified_again(scene: Scene, tmp_path: Path) -> None:
    run(tmp_path)
    scene.keypoints["c"] = scene.keypoints["c"] + np.float32(0.25)
    scene.matches["a", "sub/d"] = scene.matches["a", "sub/d"][:, 5:]
    for file in ("matches.h5", "keypoints.h5", "descriptors.h5", "scores.h5"):
        (tmp_path / file).unlink()
    write_features(scene, tmp_path)
    write_matches(scene, tmp_path)
    export_again(tmp_path)
    summary = run(tmp_path)
    assert (summary.verified, summary.stale) == (4, 4)  # the pairs of c, and the changed one; a-b and b-sub/d are kept
    inliers_of(tmp_path)


def test_inliers_of_another_database_are_not_taken_for_its_own(scene: Scene, tmp_path: Path) -> None:
    """Two databases of the same images, one after the other."""
    run(tmp_path)
    other = tmp_path / "other.db"
    export(tmp_path, tmp_path / "photos", ExportOptions(database_path=other, camera_model="pinhole"))
    assert verify(tmp_path, VerifyOptions(database_path=other)).stale == 6
    before = geometries(tmp_path)
    run(tmp_path)
    inliers_of(tmp_path)
    assert geometries(tmp_path) == before


def test_matches_with_other_options_need_a_new_export_and_overwrite(scene: Scene, tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "matches.h5").unlink()
    scene.matches["a", "sub/d"] = scene.matches["a", "sub/d"][:, 5:]
    write_matches(scene, tmp_path, options="otherwise")
    with pytest.raises(ArtifactError, match=r"inliers\.h5 was written with other options"):
        run(tmp_path)
    with pytest.raises(ColmapError, match=r"is not an up-to-date export of .* run `disk export` again"):
        run(tmp_path, overwrite=True)
    export_again(tmp_path)
    assert run(tmp_path, overwrite=True).verified == 6
    inliers_of(tmp_path)


def test_other_cameras_are_verified_again(scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path)
    path = tmp_path / "database.db"
    export(tmp_path, tmp_path / "photos", ExportOptions(database_path=path, overwrite=True, camera_model="pinhole"))
    summary = run(tmp_path)
    assert (summary.verified, summary.stale) == (6, 6)
    assert "6 pairs in inliers.h5 out of date (cameras or matches changed): verifying again" in caplog.text
    assert run(tmp_path).stale == 0
    inliers_of(tmp_path)  # checks that the database and inliers.h5 agree
