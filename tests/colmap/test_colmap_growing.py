"""Growing models, compared with the known cameras: ids, frame and scale stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from disk.colmap.database import image_ids, open_database, write_database
from disk.colmap.growing import CHANGED, GONE, Growth, _keep_point_ids, _move_back, grow_models, model_folders
from disk.colmap.mapping import Mapper, map_images
from disk.colmap.models import Model, put_back
from disk.colmap.plan import plan_cameras
from disk.colmap.verification import verify_pairs
from disk.errors import ColmapError
from disk.geometry.pose import align_similarity, rotation_error
from disk.images.listing import list_images
from disk.storage.artifacts import read_features, read_matches
from synthetic_scene import Scene, make_scene, write_features, write_matches, write_photos

NAMES = ["b", "c", "d", "e", "f", "h"]
ALL = ["a", *NAMES[:-1], "g", "h"]  # a sorts before the others, g among them
NOISE = 0.25  # pixels; without noise nothing would move, regardless of the mapper
# relative to the box around the cameras, and degrees: several standard deviations at this noise
SHARE, DEGREES = 0.005, 0.2


@pytest.fixture(scope="module")
def scene() -> Scene:
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


def assert_in_its_place(before: Any, after: Any, names: list[str]) -> None:
    """The cameras are where they were, without any alignment."""
    old, new = poses(before), poses(after)
    size = np.linalg.norm(np.ptp([centre for _, centre in old.values()], axis=0))
    for name in names:
        assert np.linalg.norm(new[name][1] - old[name][1]) < SHARE * size
        assert rotation_error(new[name][0], old[name][0]) < DEGREES


def assert_true(model: Any, scene: Scene, degrees: float = DEGREES) -> None:
    """All cameras are correct, up to one similarity."""
    found = {name.removesuffix(".jpg"): pose for name, pose in poses(model).items()}
    names = sorted(found)
    centres = np.stack([found[name][1] for name in names])
    scale, R, t = align_similarity(centres, scene.centres(names))
    off = np.linalg.norm(scale * centres @ R.T + t - scene.centres(names), axis=1)
    assert off.max() < SHARE * np.linalg.norm(np.ptp(scene.centres(names), axis=0))
    assert max(rotation_error(found[name][0] @ R.T, scene.rotations[name]) for name in names) < degrees


def jpg(names: list[str]) -> list[str]:
    return [f"{name}.jpg" for name in names]


@pytest.mark.parametrize("camera_per", ["collection", "image"])
def test_new_images_join_and_everything_keeps_its_id_and_place(scene: Scene, tmp_path: Path, camera_per: str) -> None:
    prepare(part(scene, NAMES), tmp_path, camera_per)
    map_from_scratch(tmp_path)
    before = read(tmp_path)
    prepare(scene, tmp_path, camera_per)
    (model,), growth = grow(tmp_path)
    after = read(tmp_path)
    assert model.images == jpg(ALL)
    assert (growth.added, growth.removed, growth.remarks) == (["a.jpg", "g.jpg"], {}, [])
    assert ids(before).items() <= ids(after).items()
    assert [ids(after)[name][0] for name in ("a.jpg", "g.jpg")] == [7, 8]
    old, new = observed(before), observed(after)
    assert old.keys() <= new.keys()
    for point_id, seen in old.items():  # an id means the same point
        assert len(seen & new[point_id]) >= 0.5 * len(seen)
    assert_in_its_place(before, after, jpg(NAMES))
    assert 0 < growth.moved < SHARE
    # cameras with separate unknown focal lengths rotate to compensate for them
    assert_true(after, scene, DEGREES if camera_per == "collection" else 3 * DEGREES)
    assert min(after.image(ids(after)[name][0]).num_points3D for name in jpg(ALL)) > 100


@pytest.mark.parametrize("mapper", ["global", "incremental"])
def test_a_model_of_any_mapper_grows_and_grows_again(scene: Scene, tmp_path: Path, mapper: Mapper) -> None:
    prepare(part(scene, NAMES[:4]), tmp_path)
    map_from_scratch(tmp_path, mapper)
    first = read(tmp_path)
    for names in (NAMES[:5], [*NAMES[:5], "a", "g"]):
        prepare(part(scene, sorted(names)), tmp_path)
        assert grow(tmp_path)[0][0].images == jpg(sorted(names))
    assert_in_its_place(first, read(tmp_path), jpg(NAMES[:4]))
    assert_true(read(tmp_path), scene)


def test_a_model_of_two_images_is_not_grown(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    scene = make_scene(names, points=150)
    prepare(part(scene, ["a", "c"]), tmp_path)
    assert map_from_scratch(tmp_path)[0].images == jpg(["a", "c"])
    prepare(scene, tmp_path)
    assert grow(tmp_path) == ([], Growth(remarks=["the model has only two photos"]))
    assert sorted(ids(read(tmp_path))) == jpg(["a", "c"])


@pytest.mark.parametrize(("tried", "lonely", "grows"), [(6, 0, True), (7, 0, False), (7, 1, True)])
def test_a_model_of_less_than_half_of_what_it_was_made_from_is_not_grown(
    scene: Scene, tmp_path: Path, tried: int, lonely: int, grows: bool
) -> None:
    """Images that match no other one do not count."""
    prepare(part(scene, ALL[:3]), tmp_path)
    note = {"images": jpg(ALL[:tried])}
    map_images(tmp_path / "database.db", files_in(tmp_path), tmp_path / "sparse", note=note)
    alone = set(ALL[tried - lonely : tried])
    prepare(part(scene, ALL, [pair for pair in scene.matches if alone.isdisjoint(pair)]), tmp_path)
    models, growth = grow(tmp_path)
    assert [len(model.images) for model in models] == ([len(ALL) - lonely] if grows else [])
    if not grows:
        assert growth.remarks == ["the model has only 3 of the 7 photos that it was made from and that match"]


def test_deleted_and_changed_images_are_removed(scene: Scene, tmp_path: Path) -> None:
    prepare(scene, tmp_path)
    map_from_scratch(tmp_path)
    before = read(tmp_path)
    changed = dict(scene.keypoints)
    # c is taken from the position of d: it sees each point where d sees it
    rank = np.argsort(np.argsort(scene.owners["c"]))
    changed["c"] = scene.keypoints["d"][np.argsort(scene.owners["d"])][rank]
    names = [name for name in ALL if name not in ("a", "f")]
    prepare(part(replace(scene, keypoints=changed), names), tmp_path)
    (model,), growth = grow(tmp_path)
    after = read(tmp_path)
    assert growth.removed == {"a.jpg": GONE, "f.jpg": GONE, "c.jpg": CHANGED}
    assert growth.added == ["c.jpg"]
    assert model.images == jpg(names)
    assert ids(after).items() <= ids(before).items()
    staying = [name for name in names if name != "c"]
    assert_in_its_place(before, after, jpg(staying))
    found = poses(after)
    assert rotation_error(found["c.jpg"][0], found["d.jpg"][0]) < DEGREES
    assert {after.image(number).name for seen in observed(after).values() for number, _ in seen} == set(jpg(names))


def test_a_camera_of_a_deleted_image_is_deleted(scene: Scene, tmp_path: Path) -> None:
    prepare(part(scene, ALL[:5]), tmp_path, "image")
    map_from_scratch(tmp_path)
    prepare(part(scene, [*ALL[1:5], "g"]), tmp_path, "image")
    grow(tmp_path)
    after = read(tmp_path)
    assert sorted(after.cameras) == sorted(after.rigs) == [2, 3, 4, 5, 6]


HALVES = ["a", "b", "c"], ["f", "g", "h"]
WITHIN = [(a, b) for half in HALVES for a in half for b in half if a < b]


def test_models_that_a_new_image_connects_become_one(scene: Scene, tmp_path: Path) -> None:
    prepare(part(scene, [*HALVES[0], *HALVES[1]], WITHIN), tmp_path)
    assert [len(model.images) for model in map_from_scratch(tmp_path)] == [3, 3]
    largest = read(tmp_path)
    bridges = [(min(name, other), max(name, other)) for name in "de" for other in ALL if name != other]
    prepare(part(scene, ALL, WITHIN + bridges), tmp_path)
    (model,), growth = grow(tmp_path)
    assert model.images == jpg(ALL)
    assert growth.added == jpg(["d", "e"])  # the others were in a model
    assert growth.remarks == ["all 3 images of sparse/1 are now part of a larger model"]
    assert_in_its_place(largest, read(tmp_path), sorted(ids(largest)))
    assert_true(read(tmp_path), scene)
    assert not (tmp_path / "sparse" / "1").exists()


def test_models_that_stay_disconnected_grow_and_new_ones_start(scene: Scene, tmp_path: Path) -> None:
    within = [pair for pair in scene.matches if "h" not in pair and ((pair[0] < "d") == (pair[1] < "d"))]
    prepare(part(scene, ["a", "b", "d", "e", "f", "h"], within), tmp_path)
    assert [model.images for model in map_from_scratch(tmp_path)] == [jpg(["d", "e", "f"])]
    before = read(tmp_path)
    prepare(part(scene, ALL, within), tmp_path)
    models, growth = grow(tmp_path)
    assert [model.images for model in models] == [jpg(["d", "e", "f", "g"]), jpg(["a", "b", "c"])]
    assert growth.added == jpg(["a", "b", "c", "g"])
    assert ids(before).items() <= ids(read(tmp_path)).items()
    prepare(part(scene, ["a", "b", "c", "d", "e", "f", "g", "h"], within), tmp_path)
    assert [model.images for model in grow(tmp_path)[0]] == [model.images for model in models]


def test_an_image_without_verified_pairs_is_removed(scene: Scene, tmp_path: Path) -> None:
    prepare(part(scene, ALL[:5]), tmp_path)
    map_from_scratch(tmp_path)
    prepare(part(scene, ALL[:5], [pair for pair in scene.matches if "c" not in pair]), tmp_path)
    (model,), growth = grow(tmp_path)
    assert growth.removed == {"c.jpg": "in no verified pair any more"}
    assert model.images == jpg(["a", "b", "d", "e"])


def test_other_ids_and_cameras_are_refused(scene: Scene, tmp_path: Path) -> None:
    prepare(part(scene, NAMES), tmp_path)
    map_from_scratch(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "sparse").rglob("*.bin")}
    (tmp_path / "database.db").unlink()
    prepare(scene, tmp_path)  # with a as the first image
    with pytest.raises(ColmapError, match=r"another id .* for 'b\.jpg' .* map from scratch with remap=True"):
        grow(tmp_path)
    prepare(part(scene, NAMES), tmp_path)
    assert {path: path.read_bytes() for path in (tmp_path / "sparse").rglob("*.bin")} == before


def test_known_cameras_that_have_changed_are_refused(scene: Scene, tmp_path: Path) -> None:
    import pycolmap

    prepare(part(scene, NAMES), tmp_path)
    map_from_scratch(tmp_path)
    known = read(tmp_path).cameras[1]
    database = pycolmap.Database.open(tmp_path / "database.db")
    known.params = [*known.params[:2], known.params[2] + 9]
    database.update_camera(known)
    database.close()
    with pytest.raises(ColmapError, match="was made with another camera of"):
        grow(tmp_path, fix_intrinsics=True)
    assert len(grow(tmp_path)[0][0].images) == len(NAMES)  # if they are refined, they are only an initial value


@pytest.mark.parametrize("line", [False, True])
def test_a_known_similarity_is_undone(scene: Scene, tmp_path: Path, line: bool) -> None:
    """Including cameras in a line, whose centres leave a rotation around it open."""
    import pycolmap

    prepare(part(scene, ["a", "d"] if line else NAMES), tmp_path)
    map_from_scratch(tmp_path)
    before, after = read(tmp_path), read(tmp_path)
    rng = np.random.default_rng(2)
    after.transform(pycolmap.Sim3d(3.7, pycolmap.Rotation3d(rng.normal(size=4)), [5.0, -60.0, 0.7]))
    assert _move_back(before, after) < 1e-12
    for name, (R, centre) in poses(before).items():
        assert np.abs(poses(after)[name][0] - R).max() < 1e-12
        assert np.abs(poses(after)[name][1] - centre).max() < 1e-9


def test_a_merged_point_keeps_the_id_of_the_larger_one(scene: Scene, tmp_path: Path) -> None:
    prepare(part(scene, NAMES), tmp_path)
    map_from_scratch(tmp_path)
    before, after = read(tmp_path), read(tmp_path)
    first, second = sorted(before.point3D_ids())[:2]
    seen = observed(before)
    for model in (before, after):  # the second point is seen by fewer images than the first
        for image_id, column in sorted(seen[second])[:-2]:
            model.delete_observation(image_id, column)
    merged = after.merge_points3D(second, first)
    assert merged not in seen
    _keep_point_ids(before, after)
    assert set(after.point3D_ids()) == set(before.point3D_ids()) - {second}
    assert observed(after)[first] == observed(before)[first] | observed(before)[second]
    image_id, column = min(observed(before)[second])
    assert after.image(image_id).points2D[column].point3D_id == first
    assert after.is_valid()


def test_the_backup_of_a_killed_run_is_restored(tmp_path: Path) -> None:
    out, aside = tmp_path / "sparse", tmp_path / ".sparse.tmp" / "before"
    (aside / "0").mkdir(parents=True)
    (aside / "0" / "mine").write_text("old")
    put_back(out)
    assert (out / "0" / "mine").read_text() == "old"
    aside.mkdir()
    (aside / "later").write_text("")
    put_back(out)  # the new one is in place: nothing to do
    assert (out / "0" / "mine").is_file()


def test_incomplete_models_are_ignored(scene: Scene, tmp_path: Path) -> None:
    prepare(part(scene, NAMES[:3]), tmp_path)
    map_from_scratch(tmp_path)
    assert [folder.name for folder in model_folders(tmp_path / "sparse")] == ["0"]
    (tmp_path / "sparse" / "0" / "points3D.bin").unlink()
    assert model_folders(tmp_path / "sparse") == []
    assert model_folders(tmp_path / "nowhere") == []
