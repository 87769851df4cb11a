"""Calibrations and depth maps."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from disk.datasets.files import (
    Calibration,
    find_calibration,
    find_depth,
    read_calibration,
    read_depth,
    write_calibration,
    write_depth,
)
from disk.errors import DatasetError

K = np.array([[50.0, 0, 29.5], [0, 52.0, 19.5], [0, 0, 1]])
GOOD = {"K": K, "R": np.eye(3), "T": np.zeros(3)}


@pytest.mark.parametrize("name", ["a.jpg", "a.b.c.png", "sub/folder/a.jpg", "ä ö.tif"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    calibration = Calibration(K, np.eye(3)[[1, 2, 0]], np.array([1.0, 2, 3]))
    write_calibration(tmp_path, name, calibration)
    path = find_calibration(tmp_path, name)
    assert path is not None
    for before, after in zip(calibration, read_calibration(path), strict=True):
        np.testing.assert_array_equal(before, after)
    depth = np.random.default_rng(0).random((7, 5), dtype=np.float32)
    for keep_extension in (False, True):
        write_depth(tmp_path / str(keep_extension), name, depth, keep_extension)
        depth_path = find_depth(tmp_path / str(keep_extension), name)
        assert depth_path is not None
        np.testing.assert_array_equal(read_depth(depth_path), depth)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.b.jpg", "calibration_a.b.jpg.h5"),
        ("a.b.jpg", "calibration_a.b.h5"),
        ("sub/a.jpg", "sub/calibration_a.jpg.h5"),
        ("sub/a.jpg", "calibration_sub/a.jpg.h5"),
    ],
)
def test_names_of_calibrations(tmp_path: Path, name: str, file: str) -> None:
    assert find_calibration(tmp_path, name) is None
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert find_calibration(tmp_path, name) == tmp_path / file


def test_a_dotted_name_is_not_cut_at_the_first_dot(tmp_path: Path) -> None:
    (tmp_path / "a.h5").touch()
    assert find_depth(tmp_path, "a.jpg") == tmp_path / "a.h5"
    assert find_depth(tmp_path, "a.b.jpg") is None


def test_a_column_as_translation(tmp_path: Path) -> None:
    _write(tmp_path / "c.h5", **{**GOOD, "T": np.array([[1.0], [2], [3]])})
    np.testing.assert_array_equal(read_calibration(tmp_path / "c.h5").T, [1, 2, 3])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("T", np.array([0, np.nan, 0]), "not finite"),
        ("R", np.full((3, 3), np.nan), "not finite"),
        ("R", np.eye(3) * 1.01, "not a rotation"),
        ("R", np.diag([1.0, 1, -1]), "not a rotation"),
        ("R", np.eye(4), "shapes"),
        ("T", np.zeros(4), "shapes"),
        ("K", np.zeros((3, 3)), "focal lengths"),
        ("K", K.T, "focal lengths"),
    ],
)
def test_invalid_calibrations(tmp_path: Path, key: str, value: np.ndarray, message: str) -> None:
    _write(tmp_path / "c.h5", **{**GOOD, key: value})
    with pytest.raises(DatasetError, match=message) as error:
        read_calibration(tmp_path / "c.h5")
    assert "c.h5" in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_depth_becomes_zero(tmp_path: Path) -> None:
    _write(tmp_path / "d.h5", depth=np.array([[1, np.nan, -1, np.inf, 0]], dtype=np.float16))
    np.testing.assert_array_equal(read_depth(tmp_path / "d.h5"), [[1, 0, 0, 0, 0]])


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(b"no HDF5")
    for read in (read_calibration, read_depth):
        with pytest.raises(DatasetError, match=r"x\.h5"):
            read(path)
    _write(path, other=np.zeros(3))
    for read in (read_calibration, read_depth):
        with pytest.raises(DatasetError, match=r"x\.h5"):
            read(path)
    _write(path, depth=np.zeros((2, 3, 4)))
    with pytest.raises(DatasetError, match="shape"):
        read_depth(path)


def _write(path: Path, **arrays: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = value
