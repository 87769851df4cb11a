"""Databases that every COLMAP from 3.8 on opens.

pycolmap writes the tables of its version. Older versions need the columns of pose priors in `images`, and fail on two
tables that have changed since. Those are dropped while empty; any version creates its own when it opens the database.
Pose priors stay in the table of COLMAP 3.10 to 3.13, which later versions convert when they open it.
`benchmarks/colmap_versions.py` checks this with the releases from 3.8 to 4.2.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from disk.errors import ColmapError

_PRIORS = ("qw", "qx", "qy", "qz", "tx", "ty", "tz")
_CHANGED = ("pose_priors", "descriptors")
_FORMER_PRIORS = (
    "image_id INTEGER PRIMARY KEY NOT NULL, position BLOB, coordinate_system INTEGER NOT NULL, position_covariance BLOB"
)


def make_readable(path: Path) -> None:
    """Add what COLMAP 3.8 needs to a new database of pycolmap. Raises ColmapError if it cannot be written."""
    with _tables(path) as database:
        for name in _PRIORS:
            database.execute(f"ALTER TABLE images ADD COLUMN prior_{name} REAL")
    keep_readable(path)


def keep_readable(path: Path) -> None:
    """Undo changes by pycolmap that older COLMAPs fail on; leaves databases of other programs unchanged."""
    with _tables(path) as database:
        columns = _columns(database, "images")
        tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "prior_qw" in columns:
            for table in tables & set(_CHANGED):
                if database.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is None:
                    database.execute(f"DROP TABLE {table}")
                elif table == "pose_priors" and "image_id" not in _columns(database, table):
                    database.execute("BEGIN")  # all of it, or nothing
                    database.execute(f"CREATE TABLE former_priors ({_FORMER_PRIORS})")
                    database.execute(
                        "INSERT INTO former_priors SELECT corr_data_id, position, coordinate_system, "
                        "position_covariance FROM pose_priors"
                    )
                    database.execute("DROP TABLE pose_priors")
                    database.execute("ALTER TABLE former_priors RENAME TO pose_priors")


def check_sound(path: Path) -> None:
    """Raise ColmapError for a database that would make COLMAP loop forever or read out of bounds.

    A sound one has no views or triggers, its blobs have the sizes they state, and every image has a camera.
    """
    with _tables(path) as database:
        tables = {}
        for kind, name in database.execute("SELECT type, name FROM sqlite_master"):
            if kind in ("view", "trigger"):
                raise ColmapError(f"{path} is not a COLMAP database: it has a {kind}, {name!r}")
            tables[name] = kind
        for table in ("keypoints", "matches", "two_view_geometries"):
            wrong = f"SELECT 1 FROM {table} WHERE rows < 0 OR cols < 0 OR rows * cols * 4 != coalesce(length(data), 0)"
            if table in tables and database.execute(f"{wrong} LIMIT 1").fetchone():
                raise ColmapError(
                    f"{path} is damaged: entries of {table} do not have the size they state; export again"
                )
        orphans = "SELECT name FROM images WHERE camera_id NOT IN (SELECT camera_id FROM cameras) LIMIT 1"
        if {"images", "cameras"} <= set(tables) and (image := database.execute(orphans).fetchone()):
            raise ColmapError(f"{path} is damaged: it has no camera for {image[0]!r}; export again")


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in database.execute(f"PRAGMA table_info({table})")}


@contextlib.contextmanager
def _tables(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.text_factory = lambda text: text.decode(errors="replace")
            yield database
    except sqlite3.Error as error:
        raise ColmapError(
            f"cannot use {path}: {error}; export it again, or make room and run the same command again; on a file "
            "system without locks, as some of a network are, use a local disk"
        ) from error
