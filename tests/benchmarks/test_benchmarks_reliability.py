"""The comparison behind `benchmarks/reliability` notices every kind of difference."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest

from script import load_script


@pytest.fixture(scope="module")
def records() -> ModuleType:
    return load_script("benchmarks/reliability/records.py")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two identical folders of artifacts."""
    reference = tmp_path / "reference"
    reference.mkdir()
    with h5py.File(reference / "keypoints.h5", "w") as file:
        for key in ("a", "sub/b"):
            file[key] = np.arange(4.0)
            file[key].attrs["image_size"] = (4, 3)
    (reference / "photos.json").write_text('{"a": 1}')
    return shutil.copytree(reference, tmp_path / "found"), reference


def test_equal_folders(records: ModuleType, folders: tuple[Path, Path]) -> None:
    (folders[0] / ".lock").touch()
    assert not records.compare(*folders, records.of_artifacts)


def test_artifacts(records: ModuleType, folders: tuple[Path, Path]) -> None:
    with h5py.File(folders[0] / "keypoints.h5", "a") as file:
        del file["a"]
        file["sub/b"].attrs["image_size"] = (4, 4)
        file["c"] = 1
    (folders[0] / ".features-000001.h5").touch()
    found = records.compare(*folders, records.of_artifacts)
    assert found.lost == ["keypoints.h5/a"]
    assert found.wrong == ["keypoints.h5/c", "keypoints.h5/sub/b"]
    assert (found.doubled, found.leftovers) == ([], [".features-000001.h5"])


@pytest.mark.parametrize(("off", "wrong"), [(1e-7, []), (1e-3, ["descriptors.h5/a"])])
def test_descriptors_are_compared_up_to_rounding(
    records: ModuleType, folders: tuple[Path, Path], off: float, wrong: list[str]
) -> None:
    for folder, change in zip(folders, (off, 0), strict=True):
        with h5py.File(folder / "descriptors.h5", "w") as file:
            file["a"] = np.full((2, 128), 0.1 + change)
    assert records.compare(*folders, records.of_artifacts, records.descriptors_are_other).wrong == wrong


def test_a_duplicate_record(records: ModuleType, folders: tuple[Path, Path]) -> None:
    def read(folder: Path) -> list[tuple[str, str]]:
        return [("step 1", "x"), ("step 2", "y")] + [("step 2", "y")] * (folder == folders[0])

    found = records.compare(*folders, read)
    assert (found.lost, found.doubled, found.wrong) == ([], ["step 2"], [])


def test_rows_of_a_database(records: ModuleType, tmp_path: Path) -> None:
    def rows() -> dict[str, str]:
        return dict(records.of_database(tmp_path / "database.db"))

    with closing(sqlite3.connect(tmp_path / "database.db")) as database, database:
        for table in ("cameras", "images", "keypoints", "matches", "two_view_geometries"):
            database.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, data BLOB)")
            database.execute(f"INSERT INTO {table} VALUES (7, x'01')")
    before = rows()
    assert len(before) == 6
    assert before["integrity"] == "[('ok',)]"
    with closing(sqlite3.connect(tmp_path / "database.db")) as database, database:
        database.execute("UPDATE matches SET data = x'02'")
    after = rows()
    assert {key for key in before if before[key] != after[key]} == {"database.db/matches/7"}
