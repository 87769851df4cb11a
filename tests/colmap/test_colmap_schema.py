"""Databases for every COLMAP from 3.8 on: their tables, and the original's README with the `colmap` binary itself."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pycolmap
import pytest

from disk.cli.main import main
from disk.colmap.database import image_ids, open_database
from disk.pipeline.export import export
from disk.storage.artifacts import read_matches
from synthetic_scene import Scene, make_scene, write_features, write_matches, write_photos

NAMES = ["a", "b", "c", "d"]
COLMAP = shutil.which("colmap")
# column names of images in 3.8's statements, and tables whose columns have changed since
PRIORS = {f"prior_{name}" for name in ("qw", "qx", "qy", "qz", "tx", "ty", "tz")}
CHANGED = {"pose_priors", "descriptors"}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """In tmp_path/h5 and tmp_path/images, as in the README of the original."""
    scene = make_scene(NAMES, points=120)
    write_features(scene, tmp_path / "h5")
    write_matches(scene, tmp_path / "h5")
    write_photos(scene, tmp_path / "images")
    return scene


def tables(path: Path) -> tuple[set[str], set[str]]:
    """Names of the tables, and of the columns of `images`."""
    database = sqlite3.connect(path)
    names = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    columns = {row[1] for row in database.execute("PRAGMA table_info(images)")}
    database.close()
    return names, columns


def test_the_tables_are_those_of_3_8_after_every_stage(scene: Scene, tmp_path: Path) -> None:
    def check() -> None:
        names, columns = tables(tmp_path / "database.db")
        assert columns >= PRIORS
        assert not names & CHANGED

    assert export(tmp_path / "h5", tmp_path / "images") == tmp_path / "database.db"
    check()
    with open_database(tmp_path / "database.db"):
        pass
    check()
    assert main(["verify", str(tmp_path / "h5")]) == 0
    check()
    assert main(["map", str(tmp_path / "h5"), str(tmp_path / "images")]) == 0
    check()
    assert (tmp_path / "sparse" / "0").is_dir()


def test_the_database_of_another_program_keeps_its_tables(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    with pycolmap.Database.open(path) as database:
        camera = pycolmap.Camera.create_from_model_name(0, "PINHOLE", 700.0, 640, 480)
        camera.camera_id = database.write_camera(camera)
        database.write_image(pycolmap.Image(name="a.jpg", camera_id=camera.camera_id))
    before = tables(path)
    with open_database(path) as database:
        assert image_ids(database) == {"a": 1}
    assert tables(path) == before


def test_existing_pose_priors_stay(scene: Scene, tmp_path: Path) -> None:
    path = export(tmp_path / "h5", tmp_path / "images")
    with pycolmap.Database.open(path) as database:
        prior = pycolmap.PosePrior(corr_data_id=database.read_all_images()[0].data_id, position=[1.0, 2.0, 3.0])
        database.write_pose_prior(prior)
    with open_database(path):
        pass
    with pycolmap.Database.open(path) as database:
        assert database.num_pose_priors() == 1


@pytest.mark.skipif(COLMAP is None, reason="the colmap binary is not installed (apt-get install colmap)")
@pytest.mark.parametrize("verified", [False, True])
def test_the_example_of_the_original_readme(scene: Scene, tmp_path: Path, verified: bool) -> None:
    """Export, exhaustive_matcher and mapper, command by command; or `disk verify` instead of the matcher."""

    def colmap(*command: str) -> str:
        environment = os.environ | {"QT_QPA_PLATFORM": "offscreen"}
        done = subprocess.run(
            [str(COLMAP), *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    h5, images, database = str(tmp_path / "h5"), str(tmp_path / "images"), str(tmp_path / "database.db")
    assert main(["export", "--database-path", database, h5, images]) == 0
    if verified:
        assert main(["verify", h5]) == 0
    else:
        gpu = "FeatureMatching" if "FeatureMatching" in colmap("exhaustive_matcher", "--help") else "SiftMatching"
        colmap("exhaustive_matcher", "--database_path", "database.db", f"--{gpu}.use_gpu", "0")
    (tmp_path / "sparse").mkdir()
    colmap("mapper", "--database_path", "database.db", "--image_path", "images", "--output_path", "sparse")
    model = pycolmap.Reconstruction(tmp_path / "sparse" / "0")
    assert model.num_reg_images() == 4
    assert model.num_points3D() >= 119
    with open_database(Path(database)) as opened, read_matches(tmp_path / "h5") as matches:  # COLMAP 4 upgrades it
        assert opened.num_matched_image_pairs() == len(matches.pairs())
