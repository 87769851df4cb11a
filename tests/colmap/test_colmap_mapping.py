"""Mapping must recover the cameras of a known scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from disk.colmap.database import image_ids, open_database, write_database
from disk.colmap.mapping import Mapper, incremental_options, map_images, run_incremental
from disk.colmap.models import Model, write_models, write_ply
from disk.colmap.plan import plan_cameras
from disk.colmap.verification import verify_pairs
from disk.errors import ColmapError
from disk.geometry.pose import align_similarity, rotation_error
from disk.images.listing import list_images
from disk.storage.artifacts import read_features, read_matches
from synthetic_scene import FOCAL, Scene, full_disk, make_scene, write_features, write_matches, write_photos

NAMES = [f"{number}" for number in range(6)]


def prepare(scene: Scene, folder: Path, suffix: str = ".jpg") -> Path:
    """A verified database of a scene, all images with one camera."""
    write_features(scene, folder)
    write_matches(scene, folder)
    files = list_images(write_photos(scene, folder / "photos", suffix))
    with read_features(folder) as features, read_matches(folder) as matches:
        plan = plan_cameras(files, "SIMPLE_PINHOLE", "collection")
        write_database(folder / "database.db", plan, features, matches)
    with open_database(folder / "database.db") as database:
        ids = image_ids(database)
        pairs = [(ids[a], ids[b]) for a, b in scene.matches]
        list(verify_pairs(database, pairs, 4.0, 15, 0))
    return folder / "database.db"


def run(database: Path, mapper: Mapper = "incremental") -> list[Model]:
    files = {file.relative: file.path for file in list_images(database.parent / "photos")}
    return map_images(database, files, database.parent / "sparse", mapper)


@pytest.mark.parametrize("mapper", ["incremental", "global"])
def test_cameras_and_points_are_recovered(tmp_path: Path, mapper: Mapper) -> None:
    import pycolmap

    scene = make_scene(NAMES, points=200, wrong=0)
    database = prepare(scene, tmp_path)
    (model,) = run(database, mapper)
    assert model.images == [f"{name}.jpg" for name in NAMES]
    assert model.reprojection_error < 1e-3  # the keypoints have only float32 rounding noise
    assert (model.points, model.track_length) == (200, 6.0)
    found = pycolmap.Reconstruction(tmp_path / "sparse" / "0")
    poses = {image.name.removesuffix(".jpg"): image.cam_from_world() for image in found.images.values()}
    centres = np.stack([-poses[name].rotation.matrix().T @ poses[name].translation for name in NAMES])
    scale, R, t = align_similarity(centres, scene.centres(NAMES))
    assert np.abs(scale * centres @ R.T + t - scene.centres(NAMES)).max() < 1e-3  # cameras are 5 from the points
    for name in NAMES:
        assert rotation_error(poses[name].rotation.matrix() @ R.T, scene.rotations[name]) < 0.01
    (camera,) = found.cameras.values()
    assert camera.focal_length == pytest.approx(FOCAL, rel=1e-3)  # its initial value is 768


@pytest.mark.parametrize("points", [200, 60])
def test_the_same_seed_gives_the_model_of_one_thread_of_colmap(tmp_path: Path, points: int) -> None:
    """Of 60 points too few match for an initial pair until the thresholds are relaxed."""
    import pycolmap

    scene = make_scene(NAMES, points=points)
    rng = np.random.default_rng(5)
    for name, keypoints in scene.keypoints.items():  # with noise, another initial pair gives another model
        scene.keypoints[name] = (keypoints + rng.normal(0, 0.3, keypoints.shape)).astype(np.float32)
    database = prepare(scene, tmp_path)
    options = incremental_options(seed=0, fix_intrinsics=False)
    options.num_threads = 1
    expected = pycolmap.incremental_mapping(database, tmp_path, tmp_path / "colmap", options)
    for _ in range(4):
        found = run_incremental(database, len(NAMES), incremental_options(seed=0, fix_intrinsics=False))
        assert list(found) == list(expected) == [0]
        assert numbers(found[0]) == numbers(expected[0])


def test_a_model_without_points_has_nothing_to_colour(tmp_path: Path) -> None:
    import pycolmap

    (tmp_path / "scratch").mkdir()
    (written,) = write_models([pycolmap.Reconstruction()], {}, tmp_path / "sparse", tmp_path / "scratch")
    assert (written.images, written.points) == ([], 0)
    assert pycolmap.Reconstruction(tmp_path / "sparse" / "0").num_points3D() == 0


def numbers(model: Any) -> dict[Any, Any]:
    poses = {image.name: image.cam_from_world().matrix().tolist() for image in model.images.values()}
    return poses | {number: point.xyz.tolist() for number, point in model.points3D.items()}


def test_points_have_the_colours_of_files_colmap_cannot_read(tmp_path: Path) -> None:
    import pycolmap

    scene = make_scene(NAMES[:4], points=120)
    run(prepare(scene, tmp_path, ".webp"))
    found = pycolmap.Reconstruction(tmp_path / "sparse" / "0")
    column = {
        image.name: {point.point3D_id: point.xy[0] for point in image.points2D if point.has_point3D()}
        for image in found.images.values()
    }
    checked = {"red": 0, "grey": 0}
    for number, point in found.points3D.items():
        seen = [columns[number] for columns in column.values() if number in columns]
        if max(seen) < 310:
            assert np.abs(point.color.astype(int) - (200, 40, 40)).max() <= 8  # WebP is lossy
            checked["red"] += 1
        elif min(seen) > 330:
            assert np.abs(point.color.astype(int) - 128).max() <= 8
            checked["grey"] += 1
    assert min(checked.values()) > 10
    write_ply(tmp_path / "sparse" / "0", tmp_path / "points.ply")
    header = (tmp_path / "points.ply").read_bytes()[:200]
    assert header.startswith(b"ply")
    assert f"element vertex {len(found.points3D)}".encode() in header


def test_the_largest_model_comes_first(tmp_path: Path) -> None:
    """Two scenes that no match connects; the larger one has the later names."""
    small, large = make_scene(["a0", "a1", "a2"], 120, seed=1), make_scene(["b0", "b1", "b2", "b3"], 120, seed=2)
    both = Scene(
        small.names + large.names,
        small.rotations | large.rotations,
        small.translations | large.translations,
        small.keypoints | large.keypoints,
        small.owners | large.owners,
        small.matches | large.matches,
        small.wrong,
    )
    database = prepare(both, tmp_path)
    (tmp_path / "sparse" / "7").mkdir(parents=True)  # from another run
    models = run(database)
    assert [model.images for model in models] == [
        ["b0.jpg", "b1.jpg", "b2.jpg", "b3.jpg"],
        ["a0.jpg", "a1.jpg", "a2.jpg"],
    ]
    assert sorted(path.name for path in (tmp_path / "sparse").iterdir()) == ["0", "1"]


@pytest.mark.parametrize("mapper", ["incremental", "global"])
def test_nothing_to_connect(tmp_path: Path, mapper: Mapper) -> None:
    scene = make_scene(["a", "b"], points=60)
    rng = np.random.default_rng(0)
    scene.matches["a", "b"] = np.stack([rng.permutation(80), rng.permutation(80)])
    database = prepare(scene, tmp_path)
    with pytest.raises(ColmapError, match="no two images could be connected"):
        run(database, mapper)
    assert not (tmp_path / "sparse").exists()
    assert not list(tmp_path.glob(".sparse*"))


def test_a_full_disk(tmp_path: Path) -> None:
    """pycolmap silently writes half a model, and crashes when reading it."""
    database = prepare(make_scene(NAMES[:4], points=120), tmp_path)
    run(database)
    before = (tmp_path / "sparse" / "0" / "points3D.bin").read_bytes()
    with full_disk(2000), pytest.raises(ColmapError, match="the disk is full"):
        run(database)
    with full_disk(100_000), pytest.raises(ColmapError, match=r"cannot write in .* make room"):
        run(database)
    assert (tmp_path / "sparse" / "0" / "points3D.bin").read_bytes() == before
    with full_disk(2000), pytest.raises(ColmapError, match=r"cannot write in .* make room"):
        write_ply(tmp_path / "sparse" / "0", tmp_path / "points.ply")


def test_pngs_can_be_written_after_pycolmap_was_loaded(tmp_path: Path) -> None:
    """Both contain zlib; loaded in the wrong order, this crashed the process."""
    import subprocess
    import sys

    code = (
        "import disk.colmap.cameras, numpy, PIL.Image; "
        "noise = numpy.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=numpy.uint8); "
        f"PIL.Image.fromarray(noise).save({str(tmp_path / 'noise.png')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    with Image.open(tmp_path / "noise.png") as image:
        assert image.size == (64, 64)
