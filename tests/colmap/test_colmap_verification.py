"""Verification of matches with known truth, and compared with COLMAP's own verifier."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from disk.colmap.database import image_ids, open_database, write_database
from disk.colmap.plan import plan_cameras
from disk.colmap.verification import _estimate, verify_pairs
from disk.geometry.chance import log10_false_alarms
from disk.images.listing import list_images
from disk.storage.artifacts import read_features, read_matches
from synthetic_scene import Scene, make_scene, write_features, write_matches, write_photos

NAMES = ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
def scene() -> Scene:
    scene = make_scene(NAMES, points=150, wrong=40)
    rng = np.random.default_rng(3)
    scene.matches["a", "d"] = np.stack([rng.permutation(30), rng.permutation(30)])  # no overlap
    scene.matches["b", "d"] = scene.matches["b", "d"][:, :10]  # too few matches
    return scene


@pytest.fixture(scope="module")
def exported(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(scene, tmp_path_factory.mktemp("verification"))


def export(scene: Scene, folder: Path) -> Path:
    write_features(scene, folder)
    write_matches(scene, folder)
    files = list_images(write_photos(scene, folder / "photos"))
    with read_features(folder) as features, read_matches(folder) as matches:
        write_database(folder / "database.db", plan_cameras(files, "SIMPLE_RADIAL"), features, matches)
    return folder / "database.db"


def verify(database: Path, pairs: list[tuple[str, str]], seed: int = 0) -> dict[tuple[str, str], np.ndarray]:
    with open_database(database) as opened:
        ids = image_ids(opened)
        found = verify_pairs(opened, [(ids[a], ids[b]) for a, b in pairs], 4.0, 15, seed)
        return dict(zip(pairs, found, strict=True))


def verify_by_colmap(database: Path, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], np.ndarray]:
    import pycolmap

    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.random_seed = 0
    pycolmap.geometric_verification(database, two_view_geometry_options=options)
    with open_database(database) as opened:
        ids = image_ids(opened)
        return {(a, b): opened.read_two_view_geometry(ids[a], ids[b]).inlier_matches.T for a, b in pairs}


def test_true_matches_stay_and_wrong_ones_are_removed(scene: Scene, exported: Path, tmp_path: Path) -> None:
    database = Path(shutil.copy(exported, tmp_path))
    found = verify(database, list(scene.matches))
    for pair in [("a", "b"), ("a", "c"), ("b", "c"), ("c", "d")]:
        right = set(map(tuple, scene.matches[pair][:, : -scene.wrong].T.tolist()))
        kept = set(map(tuple, found[pair].T.tolist()))
        assert right <= kept
        # a wrong match may be on its epipolar line by chance
        assert len(kept - right) <= 0.25 * scene.wrong
    assert found["a", "d"].shape == found["b", "d"].shape == (2, 0)
    with open_database(database) as opened:
        ids = image_ids(opened)
        assert opened.num_verified_image_pairs() == 6  # including those without inliers
        assert len(opened.read_two_view_geometry(ids["a"], ids["d"]).inlier_matches) == 0
        geometry = opened.read_two_view_geometry(ids["a"], ids["b"])
        assert np.array_equal(geometry.inlier_matches.T, found["a", "b"])


@pytest.mark.parametrize("count", [50, 100, 300, 1000])
def test_pairs_that_agree_by_chance_have_no_inliers(count: int, tmp_path: Path) -> None:
    """Only wrong matches: COLMAP finds 15 that agree among some hundreds. With a third correct, all are found."""
    scene = make_scene(["a", "b"], points=count, wrong=0)
    right = scene.matches["a", "b"]
    wrong = np.stack([right[0], np.random.default_rng(count).permutation(right[1])])
    scene.matches["a", "b"] = wrong
    database = export(scene, tmp_path / "wrong")
    assert verify(database, [("a", "b")])["a", "b"].shape == (2, 0)
    theirs = verify_by_colmap(database, [("a", "b")])["a", "b"]
    assert theirs.shape[1] > 15 or count < 300
    third = max(count // 3, 25)
    scene.matches["a", "b"] = np.concatenate([right[:, :third], wrong[:, third:]], axis=1)
    found = verify(export(scene, tmp_path / "third"), [("a", "b")])["a", "b"]
    assert set(map(tuple, right[:, :third].T.tolist())) <= set(map(tuple, found.T.tolist()))


def test_the_same_inliers_as_colmaps_verifier(scene: Scene, exported: Path, tmp_path: Path) -> None:
    ours, theirs = (
        Path(shutil.copy(exported, tmp_path / "ours.db")),
        Path(shutil.copy(exported, tmp_path / "theirs.db")),
    )
    found = verify(ours, list(scene.matches))
    expected = verify_by_colmap(theirs, list(scene.matches))
    with open_database(theirs) as database:
        assert database.num_verified_image_pairs() == 6
    for pair, inliers in found.items():
        assert np.array_equal(expected[pair], inliers)


def test_verifying_again_gives_the_same_and_replaces_the_result(scene: Scene, exported: Path, tmp_path: Path) -> None:
    database = Path(shutil.copy(exported, tmp_path))
    first = verify(database, list(scene.matches))
    again = verify(database, list(reversed(scene.matches)))
    for pair, inliers in first.items():
        assert np.array_equal(inliers, again[pair])
    with open_database(database) as opened:
        assert opened.num_verified_image_pairs() == 6


def kept(matches: int, inliers: int, sizes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> int:
    """Number of inliers kept from a geometry that COLMAP finds, between images of these (width, height)."""
    found = pycolmap.TwoViewGeometry()
    found.inlier_matches = np.zeros((inliers, 2), np.uint32)
    monkeypatch.setattr(pycolmap, "estimate_two_view_geometry", lambda *arguments: found)
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.max_error = 4.0
    cameras = [pycolmap.Camera.create_from_model_name(0, "SIMPLE_PINHOLE", 500.0, *size) for size in sizes]
    here, there = np.array([[100.0, 100]]), np.array([[150.0, 100]])
    geometry = _estimate((cameras[0], here), (cameras[1], there), np.zeros((matches, 2), np.uint32), options)
    return len(geometry.inlier_matches)


def test_a_geometry_is_kept_below_one_false_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    size = (1024, 768)
    chance = 2 * 4.0 * np.hypot(*size) / (size[0] * size[1])
    expected = {k: log10_false_alarms(300, k, chance) for k in range(15, 60)}
    first = min(k for k, alarms in expected.items() if alarms < 0)
    assert -5 < expected[first] < 0 < expected[first - 1]  # the threshold is between two neighbours
    assert kept(300, first, [size, size], monkeypatch) == first
    assert kept(300, first - 1, [size, size], monkeypatch) == 0


@pytest.mark.parametrize("order", [1, -1])
def test_chance_is_computed_for_the_smaller_image(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The band around a line covers more of a small image, so wrong matches agree by chance more easily."""
    large, small = (2000, 1500), (320, 240)
    borders = [
        min(k for k in range(15, 300) if log10_false_alarms(300, k, 8.0 * np.hypot(w, h) / (w * h)) < 0)
        for w, h in (large, small)
    ]
    assert borders[0] < borders[1] - 10
    sizes = [large, small][::order]
    assert kept(300, borders[1], sizes, monkeypatch) == borders[1]
    assert kept(300, borders[1] - 1, sizes, monkeypatch) == 0
