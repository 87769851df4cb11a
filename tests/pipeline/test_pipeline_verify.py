"""disk verify: inliers.h5 and the database agree, whatever happens to a run."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
from verified_scene import NAMES, export_again, exported_scene, inliers_of, run

from disk.cli.main import main
from disk.errors import ArtifactError, ColmapError, DiskError
from disk.pipeline.verify import VerifySummary
from synthetic_scene import Scene, full_disk, make_scene, write_features, write_matches, write_photos


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return exported_scene(tmp_path)


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


def test_a_failure_overwrites_nothing(scene: Scene, tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / "inliers.h5").read_bytes()
    scene.matches["a", "sub/d"] = scene.matches["a", "sub/d"][:, 5:]
    (tmp_path / "matches.h5").unlink()
    write_matches(scene, tmp_path)
    with pytest.raises(ColmapError, match="is not an up-to-date export of"):
        run(tmp_path, overwrite=True)
    assert (tmp_path / "inliers.h5").read_bytes() == before


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
