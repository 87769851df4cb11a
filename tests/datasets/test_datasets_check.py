"""The check finds faults, and reports none in a sound data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from disk.datasets.check import check
from disk.errors import DatasetError

# as the images of the fixture: 60 x 40, looking along z at the plane z = 5
K = np.array([[50.0, 0, 29.5], [0, 52.0, 19.5], [0, 0, 1]])
BEHIND = np.diag([-1.0, 1, -1])


def problems(maker) -> list[str]:
    (report,) = check(maker.write())
    return report.problems


@pytest.mark.parametrize("depth", [True, False])
def test_a_sound_data_set(maker, depth: bool) -> None:
    (report,) = check(maker.scene(depth=depth).write())
    assert (report.name, report.images, report.with_depth, report.tuples) == ("here", 4, 4 * depth, 2)
    assert report.problems == []


def test_train_and_test(maker, tmp_path: Path) -> None:
    for part in ("train", "test"):
        type(maker)(tmp_path / "data" / part).scene(part).write()
    assert [report.name for report in check(tmp_path / "data")] == ["train", "test"]


def test_missing_and_damaged_files(maker) -> None:
    root = maker.scene().root / "here"
    (root / "images/a.jpg").unlink()
    (root / "images/b.png").write_bytes((root / "images/b.png").read_bytes()[:500])
    (root / "calibration/calibration_c.d.tif.h5").unlink()
    (root / "depth/sub/e.h5").write_bytes(b"junk")
    found = problems(maker)
    assert len(found) == 4
    for file, problem in zip(("a.jpg", "b.png", "c.d.tif", "e.h5"), found, strict=True):
        assert file in problem


def test_a_missing_depth_map_is_not_a_problem(maker) -> None:
    (maker.scene().root / "here/depth/a.h5").unlink()
    (report,) = check(maker.write())
    assert (report.with_depth, report.problems) == (3, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"R": np.eye(3) + 0.02}, "not a rotation"),
        ({"T": np.full(3, np.nan)}, "not finite"),
        ({"K": K * 2 - np.diag([0, 0, 1])}, "principal point is far from the image centre"),
    ],
)
def test_cameras(maker, change: dict[str, np.ndarray], message: str) -> None:
    path = maker.scene(depth=False).root / "here/calibration/calibration_b.png.h5"
    maker.h5(path, **{"K": K, "R": np.eye(3), "T": np.zeros(3), **change})
    found = problems(maker)
    assert len(found) == 1
    assert "b.png" in found[0]
    assert message in found[0]


def test_an_empty_depth_map(maker) -> None:
    maker.scene().h5(maker.root / "here/depth/b.h5", depth=np.zeros((40, 60)))
    assert problems(maker) == ["b.png: the depth map has no known pixel"]


@pytest.mark.parametrize("depth", [True, False])
@pytest.mark.parametrize(
    ("R", "T"),
    [
        (BEHIND, np.array([0, 0, -1.0])),  # back to back
        (np.eye(3)[:, [2, 1, 0]] * [1, 1, -1.0], np.array([-8.0, 0, 8.0])),  # sideways and away
    ],
)
def test_cameras_that_look_at_different_things(maker, depth: bool, R: np.ndarray, T: np.ndarray) -> None:
    maker.scene(depth=depth, tuples=((0, 1), (0, 2), (1, 2)))
    maker.h5(maker.root / "here/calibration/calibration_b.png.h5", K=K, R=R, T=T)
    assert problems(maker) == [
        "a.jpg and b.png do not overlap, but share 1 tuple",
        "b.png and c.d.tif do not overlap, but share 1 tuple",
    ]


def test_depth_reveals_what_fields_of_view_cannot(maker) -> None:
    """Parallel cameras, 20 apart: their views overlap far away, but not on the plane z = 5."""
    for depth, count in ((False, 0), (True, 1)):
        maker.scene(depth=depth, tuples=((0, 1),))
        maker.h5(maker.root / "here/calibration/calibration_b.png.h5", K=K, R=np.eye(3), T=np.array([-20.0, 0, 0]))
        assert len(problems(maker)) == count


def test_depth_with_another_scale_than_the_poses(maker) -> None:
    maker.scene(tuples=((0, 1),))
    maker.h5(maker.root / "here/depth/b.h5", depth=np.full((40, 60), 50))
    assert problems(maker) == ["a.jpg and b.png do not overlap, but share 1 tuple"]


def test_an_unreadable_data_set(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        check(tmp_path)
