"""Growing models, compared with the known cameras: ids, frame and scale stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from growing_scene import (
    ALL,
    NAMES,
    grow,
    ids,
    jpg,
    map_from_scratch,
    noisy_scene,
    observed,
    part,
    poses,
    prepare,
    read,
)

from disk.colmap.growing import CHANGED, GONE
from disk.colmap.mapping import Mapper
from disk.geometry.pose import align_similarity, rotation_error
from synthetic_scene import Scene

# relative to the box around the cameras, and degrees: several standard deviations at this noise
SHARE, DEGREES = 0.005, 0.2


@pytest.fixture(scope="module")
def scene() -> Scene:
    return noisy_scene()


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
