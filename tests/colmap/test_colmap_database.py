"""The database we write, as COLMAP reads it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from disk.colmap.database import difference, image_ids, open_database, write_database
from disk.colmap.plan import plan_cameras
from disk.errors import ArtifactError, ColmapError
from disk.images.listing import list_images
from disk.storage.artifacts import read_features, read_matches
from synthetic_scene import Scene, make_scene, write_features, write_matches, write_photos

NAMES = ["a/1", "a/2", "b/1"]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Three images in two folders, their artifacts in tmp_path/artifacts, photos in tmp_path/photos."""
    scene = make_scene(NAMES, points=40)
    scene.matches["a/1", "b/1"] = np.zeros((2, 0), np.int64)
    write_features(scene, tmp_path / "artifacts")
    write_matches(scene, tmp_path / "artifacts")
    write_photos(scene, tmp_path / "photos")
    return scene


def export(tmp_path: Path, model: str = "SIMPLE_RADIAL", camera_per: str = "image") -> Path:
    path = tmp_path / "out" / "database.db"
    files = list_images(tmp_path / "photos")
    with read_features(tmp_path / "artifacts") as features, read_matches(tmp_path / "artifacts") as matches:
        write_database(path, plan_cameras(files, model, camera_per), features, matches)
    return path


def test_keypoints_are_shifted_by_half_a_pixel_and_matches_are_unchanged(scene: Scene, tmp_path: Path) -> None:
    with open_database(export(tmp_path)) as database:
        assert {image.name for image in database.read_all_images()} == {f"{name}.jpg" for name in NAMES}
        ids = image_ids(database)
        for name in NAMES:
            stored = database.read_keypoints(ids[name])[:, :2]
            assert np.array_equal(stored, scene.keypoints[name] + np.float32(0.5))
        for (name0, name1), matches in scene.matches.items():
            assert np.array_equal(database.read_matches(ids[name0], ids[name1]).T, matches)
        assert database.num_matched_image_pairs() == 2  # a pair without matches has no entry
        assert database.num_verified_image_pairs() == 0
        assert database.num_frames() == 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"database.db", ".database.db.lock"}


def test_the_log_of_a_killed_run_is_not_replayed_into_a_new_database(scene: Scene, tmp_path: Path) -> None:
    path = export(tmp_path)
    log = path.with_name("database.db-wal")
    killed = sqlite3.connect(path)
    killed.execute("PRAGMA journal_mode=WAL")
    killed.execute("DELETE FROM matches")
    killed.commit()
    written = log.read_bytes()
    killed.close()
    log.write_bytes(written)
    assert written
    export(tmp_path)
    assert not log.exists()
    with open_database(path) as database:
        assert database.num_matched_image_pairs() == 2


def test_two_runs_at_once(scene: Scene, tmp_path: Path) -> None:
    path = export(tmp_path)
    with open_database(path):
        with pytest.raises(ArtifactError, match=r"database\.db is in use by another run"):
            export(tmp_path)
        with pytest.raises(ArtifactError, match="in use by another run"), open_database(path):
            pass
    export(tmp_path)


@pytest.mark.parametrize(("camera_per", "cameras"), [("image", 3), ("folder", 2), ("collection", 1)])
def test_which_images_share_a_camera(scene: Scene, tmp_path: Path, camera_per: str, cameras: int) -> None:
    with open_database(export(tmp_path, "OPENCV", camera_per)) as database:
        assert database.num_cameras() == database.num_rigs() == cameras
        camera_of = {image.name: image.camera_id for image in database.read_all_images()}
        if camera_per != "image":
            assert camera_of["a/1.jpg"] == camera_of["a/2.jpg"]
        assert (camera_of["a/1.jpg"] == camera_of["b/1.jpg"]) == (camera_per == "collection")
        for camera in database.read_all_cameras():
            assert camera.model_name == "OPENCV"
            assert (camera.width, camera.height) == (640, 480)


def test_images_of_different_size_do_not_share_a_camera(scene: Scene, tmp_path: Path) -> None:
    Image.new("RGB", (320, 240)).save(tmp_path / "photos" / "b" / "1.jpg")
    with pytest.raises(ColmapError, match=r"a/1\.jpg is 640 x 480 and b/1\.jpg 320 x 240"):
        export(tmp_path, camera_per="collection")
    assert not (tmp_path / "out").exists()  # nothing half written
    export(tmp_path, camera_per="folder")


def test_an_export_knows_its_artifacts(scene: Scene, tmp_path: Path) -> None:
    path = export(tmp_path)

    def compare() -> str | None:
        with (
            read_features(tmp_path / "artifacts") as features,
            read_matches(tmp_path / "artifacts") as matches,
            open_database(path) as database,
        ):
            return difference(database, features, matches)

    assert compare() is None
    (tmp_path / "artifacts" / "matches.h5").unlink()
    scene.matches["a/1", "a/2"] = scene.matches["a/1", "a/2"][:, 1:]
    write_matches(scene, tmp_path / "artifacts")
    assert compare() == "the matches of 'a/1' and 'a/2' differ"
    (tmp_path / "artifacts" / "matches.h5").unlink()
    del scene.matches["a/1", "a/2"]
    write_matches(scene, tmp_path / "artifacts")
    assert compare() == "it has matches of other pairs"
    for file in ("keypoints.h5", "descriptors.h5", "scores.h5"):
        (tmp_path / "artifacts" / file).unlink()
    scene.keypoints["b/1"][0] += 1
    write_features(scene, tmp_path / "artifacts")
    assert compare() == "the keypoints of 'b/1' differ"
    for file in ("keypoints.h5", "descriptors.h5", "scores.h5"):
        (tmp_path / "artifacts" / file).unlink()
    write_features(scene, tmp_path / "artifacts", ["a/1", "a/2"])
    assert compare() == "'b/1' is in only one of them"


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "database.db"
    with pytest.raises(ColmapError, match="run `disk export` first"), open_database(path):
        pass
    path.write_text("not SQLite" * 100)
    with pytest.raises(ColmapError, match="is not a COLMAP database"), open_database(path):
        pass
    path.unlink()
    import sqlite3

    connection = sqlite3.connect(path)
    connection.execute("create table songs (name text)")
    connection.commit()
    connection.close()
    with pytest.raises(ColmapError, match="holds no images"), open_database(path):
        pass


def test_errors_of_pycolmap_become_one_line(scene: Scene, tmp_path: Path) -> None:
    with (
        pytest.raises(ColmapError, match=r"^cannot use .*database\.db: SQLite error: [^\n]*$"),
        open_database(export(tmp_path)) as database,
    ):
        database.write_image(database.read_all_images()[0])  # the name is taken


def test_an_unwritable_path(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file, not a folder")
    with pytest.raises(ArtifactError, match=r"cannot write in .*out: File exists"):
        export(tmp_path)
