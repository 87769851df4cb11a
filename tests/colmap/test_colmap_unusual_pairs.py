"""Pairs that agree, but not on a scene: watermarks and pure rotation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest

from disk.colmap.verification import kinds_of_pairs, verify_pairs
from synthetic_scene import FOCAL, HEIGHT, WIDTH, Scene, make_scene
from unusual_scenes import STAMP, same_owners, stamped_scenes, turning_scene


def verify(
    scene: Scene, folder: Path, model: str = "SIMPLE_RADIAL", focal: float = 768.0
) -> dict[tuple[str, str], tuple[str, np.ndarray]]:
    """Kind and inliers of each pair."""
    with pycolmap.Database.open(folder / "database.db") as database:
        ids = {}
        for name in scene.names:
            camera = pycolmap.Camera.create_from_model_name(0, model, focal, WIDTH, HEIGHT)
            camera.camera_id = database.write_camera(camera)
            ids[name] = database.write_image(pycolmap.Image(name=name, camera_id=camera.camera_id))
            database.write_keypoints(ids[name], scene.keypoints[name] + np.float32(0.5))
        pairs = [(ids[first], ids[second]) for first, second in scene.matches]
        for pair, matches in zip(pairs, scene.matches.values(), strict=True):
            database.write_matches(*pair, matches.T.astype(np.uint32))
        inliers = list(verify_pairs(database, pairs, 4.0, 15, 0))
        kinds = kinds_of_pairs(database, pairs)
    return dict(zip(scene.matches, zip(kinds, inliers, strict=True), strict=True))


def test_a_stamp_alone_is_a_watermark_without_inliers(tmp_path: Path) -> None:
    found = verify(stamped_scenes(count=3, views=1), tmp_path)
    assert [kind for kind, _ in found.values()] == ["WATERMARK"] * 3
    assert all(inliers.shape == (2, 0) for _, inliers in found.values())


@pytest.mark.parametrize("wrong", [60, 100])
def test_a_stamp_among_wrong_matches(tmp_path: Path, wrong: int) -> None:
    """Fixed points fit many epipolar geometries, one of which has enough of the wrong matches to hide them."""
    found = verify(stamped_scenes(count=6, views=1, wrong=wrong), tmp_path)
    assert [kind for kind, _ in found.values()] == ["WATERMARK"] * 15
    assert all(inliers.shape == (2, 0) for _, inliers in found.values())


def test_a_pair_of_one_scene_is_kept_below_a_stronger_stamp(tmp_path: Path) -> None:
    """40 points of the scene, 60 of the stamp: COLMAP alone would call the pair a watermark."""
    scene = stamped_scenes(count=1, views=2, points=40)
    ((kind, inliers),) = verify(scene, tmp_path).values()
    owners = scene.owners[scene.names[0]][inliers[0]]
    assert kind == "UNCALIBRATED"
    assert np.count_nonzero(owners < 900) >= 39
    assert np.count_nonzero(owners >= 900) < STAMP / 4  # a few are on their epipolar lines by chance


def test_the_same_photo_twice_is_no_watermark(tmp_path: Path) -> None:
    scene = make_scene(["a", "b"], points=200, wrong=0)
    scene.keypoints["b"], scene.owners["b"] = scene.keypoints["a"], scene.owners["a"]
    scene.matches["a", "b"] = same_owners(scene, "a", "b")
    ((kind, inliers),) = verify(scene, tmp_path).values()
    assert kind != "WATERMARK"
    assert inliers.shape[1] == 200


@pytest.mark.parametrize(("focal", "noise"), [(FOCAL, 0.0), (768.0, 0.5), (1000.0, 0.5)])
def test_a_pure_rotation_is_recognized_at_any_focal_length(tmp_path: Path, focal: float, noise: float) -> None:
    found = verify(turning_scene(["a", "b", "c"], degrees=8, noise=noise), tmp_path, focal=focal)
    assert [kind for kind, _ in found.values()] == ["PANORAMIC"] * 3
    assert all(inliers.shape[1] > 100 for _, inliers in found.values())


def test_a_wall_is_not_a_pure_rotation(tmp_path: Path) -> None:
    """A flat scene fits a homography too, but here the camera moves by a twentieth of the distance."""
    scene = make_scene(["a", "b"], points=1, wrong=0)
    rng = np.random.default_rng(0)
    wall = np.concatenate([rng.uniform(-1.5, 1.5, (300, 2)), np.full((300, 1), 5.0)], axis=1)
    wall[:, 2] += 0.3 * wall[:, 0]
    for name, shift in (("a", 0.0), ("b", 0.25)):
        seen = wall - [shift, 0, 0]
        pixels = FOCAL * seen[:, :2] / seen[:, 2:] + [WIDTH / 2 - 0.5, HEIGHT / 2 - 0.5]
        scene.keypoints[name] = (pixels + rng.normal(0, 0.3, pixels.shape)).astype(np.float32)
        scene.owners[name] = np.arange(300)
    scene.matches["a", "b"] = same_owners(scene, "a", "b")
    ((kind, _),) = verify(scene, tmp_path).values()
    assert kind == "PLANAR_OR_PANORAMIC"


def test_a_spherical_camera_is_verified(tmp_path: Path) -> None:
    found = verify(make_scene(["a", "b"], points=100), tmp_path, model="EQUIRECTANGULAR")
    assert len(found) == 1
