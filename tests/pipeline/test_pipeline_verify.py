"""disk verify: inliers.h5 and the database agree, whatever happens to a run."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from disk.cli.main import main
from disk.colmap.database import image_ids, open_database
from disk.errors import ArtifactError, ColmapError, DiskError
from disk.pipeline.export import ExportOptions, export
from disk.pipeline.verify import VerifyOptions, VerifySummary, verify
from disk.storage.artifacts import read_matches
from synthetic_scene import Scene, full_disk, make_scene, write_features, write_matches, write_photos

NAMES = ["a", "b", "c", "sub/d"]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
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


def test_every_pair_is_stored_and_true_matches_stay(scene: Scene, tmp_path: Path) -> None:
    summary = run(tmp_path)
    found = inliers_of(tmp_path)
    assert set(found) == set(scene.matches)
    assert found["a", "b"] == found["a", "c"] == [[], []]
    for pair in itertools.combinations(NAMES, 2):
        if len(found[pair][0]):
            right = set(map(tuple, scene.matches[pair][:, : -scene.wrong].T.tolist()))
            assert right <= set(zip(*found[pair], strict=True))
    kept = sum(len(inliers[0]) for inliers in found.values())
    total = sum(matches.shape[1] for matches in scene.matches.values())
    assert summary == VerifySummary(6, 6, connected=4, matches=total, inliers=kept, watermarks=0, turning=0, stale=0)
    with h5py.File(tmp_path / "inliers.h5") as file:  # same layout as matches.h5
        assert set(file["a"]) == {"b", "c", "sub|d"}


def test_a_second_run_has_nothing_to_do(scene: Scene, tmp_path: Path) -> None:
    first = run(tmp_path)
    before = inliers_of(tmp_path)
    again = run(tmp_path)
    assert again.verified == 0
    assert (again.connected, again.inliers) == (first.connected, first.inliers)
    assert run(tmp_path, overwrite=True).verified == 6
    assert inliers_of(tmp_path) == before


def test_other_options_are_refused(scene: Scene, tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ArtifactError, match=r"max_error 4\.0 there, 2\.0 now"):
        run(tmp_path, max_error=2.0)
    assert run(tmp_path, max_error=2.0, overwrite=True).verified == 6
    with pytest.raises(ArtifactError, match="seed 0 there, 1 now"):
        run(tmp_path, seed=1, max_error=2.0)


def test_inliers_of_an_earlier_version_are_computed_again(scene: Scene, tmp_path: Path) -> None:
    run(tmp_path)
    with h5py.File(tmp_path / "inliers.h5", "r+") as file:
        file.attrs["format"], file.attrs["cameras"] = "disk inliers 3", "0123456789abcdef"
    assert run(tmp_path).verified == 6
    assert run(tmp_path).verified == 0


def test_a_failure_overwrites_nothing(scene: Scene, tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / "inliers.h5").read_bytes()
    scene.matches["a", "sub/d"] = scene.matches["a", "sub/d"][:, 5:]
    (tmp_path / "matches.h5").unlink()
    write_matches(scene, tmp_path)
    with pytest.raises(ColmapError, match="is not an up-to-date export of"):
        run(tmp_path, overwrite=True)
    assert (tmp_path / "inliers.h5").read_bytes() == before


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


def test_kill_at_any_moment(scene: Scene, tmp_path: Path) -> None:
    """A killed run and then a complete one give the same result as an undisturbed run."""
    run(tmp_path)
    undisturbed = inliers_of(tmp_path)
    export_again(tmp_path)
    (tmp_path / "inliers.h5").unlink()
    code = (
        "import sys, time, pathlib\n"
        "from disk.pipeline import verify as stage\n"
        "from disk.storage.shards import ShardWriter\n"
        "add = ShardWriter.add\n"
        "def slow(self, *arguments):\n"
        "    add(self, *arguments); self.flush()\n"
        "    pathlib.Path(sys.argv[2]).touch(); time.sleep(0.5)\n"
        "ShardWriter.add = slow\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "stage.verify(path, stage.VerifyOptions(database_path=path / 'database.db'))\n"
    )
    mark = tmp_path / "begun"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(mark)])
    while not mark.exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.7)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob(".inliers-*.h5"))  # it was killed midway
    assert not (tmp_path / "inliers.h5").exists()
    summary = run(tmp_path)
    assert 0 < summary.verified < 6
    assert inliers_of(tmp_path) == undisturbed
    assert not list(tmp_path.glob(".inliers*"))


def test_a_full_disk(scene: Scene, tmp_path: Path) -> None:
    with full_disk(2000), pytest.raises(DiskError, match="cannot"):
        run(tmp_path)
    assert not (tmp_path / "inliers.h5").exists()
    assert run(tmp_path).connected == 4
    inliers_of(tmp_path)


def test_invalid_options(scene: Scene, tmp_path: Path) -> None:
    for options in ({"max_error": 0.0}, {"min_inliers": 0}, {"seed": -1}):
        with pytest.raises(DiskError, match="must be"):
            run(tmp_path, **options)


def test_the_command_line(scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = str(tmp_path / "database.db")
    assert main(["verify", str(tmp_path), "--database-path", database]) == 0
    capsys.readouterr()
    for arguments, message in [
        ([str(tmp_path), "--database-path", f"{database}x"], "run `disk export` first"),
        ([str(tmp_path / "none"), "--database-path", database], "run `disk detect` first"),
        ([str(tmp_path), "--database-path", str(tmp_path / "photos" / "a.jpg")], "is not a COLMAP database"),
    ]:
        assert main(["verify", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_no_pairs(tmp_path: Path) -> None:
    scene = make_scene(["a", "b"], points=30)
    scene.matches.clear()
    write_features(scene, tmp_path)
    with h5py.File(tmp_path / "matches.h5", "w"):
        pass
    write_photos(scene, tmp_path / "photos")
    export_again(tmp_path)
    with pytest.raises(ArtifactError, match="no matched pairs"):
        run(tmp_path)


def test_other_cameras_are_verified_again(scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path)
    path = tmp_path / "database.db"
    export(tmp_path, tmp_path / "photos", ExportOptions(database_path=path, overwrite=True, camera_model="pinhole"))
    summary = run(tmp_path)
    assert (summary.verified, summary.stale) == (6, 6)
    assert "6 pairs in inliers.h5 are out of date (cameras or matches changed): verifying again" in caplog.text
    assert run(tmp_path).stale == 0
    inliers_of(tmp_path)  # checks that the database and inliers.h5 agree


def test_killed_while_it_overwrites(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The results are never a mixture of two runs, although the database does not record options."""
    from disk.colmap import verification

    run(tmp_path)
    real = verification.verify_pairs

    def killed(*arguments: object) -> object:
        found = real(*arguments)  # type: ignore[arg-type]
        yield next(found)
        yield next(found)
        os._exit(9)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(verification, "verify_pairs", killed)
        run(tmp_path, overwrite=True, max_error=0.5)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert run(tmp_path).verified == 6  # with the old options
    inliers_of(tmp_path)


@pytest.mark.parametrize(
    "mistake", [{"max_error": float("nan")}, {"max_error": 0.0}, {"seed": 2**31}, {"seed": -1}, {"min_inliers": 2**31}]
)
def test_unusable_values(scene: Scene, tmp_path: Path, mistake: dict[str, float]) -> None:
    with pytest.raises(DiskError, match="must be"):
        run(tmp_path, **mistake)
