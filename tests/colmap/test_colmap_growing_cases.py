"""Models that are not grown or cannot be, and the parts of growing: ids of merged points, the former frame, backups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from growing_scene import (
    ALL,
    NAMES,
    files_in,
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

from disk.colmap.growing import Growth, _keep_point_ids, _move_back, model_folders
from disk.colmap.mapping import map_images
from disk.colmap.models import put_back
from disk.errors import ColmapError
from synthetic_scene import Scene, make_scene


@pytest.fixture(scope="module")
def scene() -> Scene:
    return noisy_scene()


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
