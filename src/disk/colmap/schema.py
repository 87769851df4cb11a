"""Databases that every COLMAP from 3.8 on opens.

pycolmap writes the tables of its own version. Older ones miss the columns of pose priors in `images`, and fail on two
tables that have changed since: those are left out while they are empty, and whoever opens the database makes its
own. Checked by `benchmarks/colmap_versions.py` with the releases from 3.8 to 4.2.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from disk.errors import ColmapError

_PRIORS = ("qw", "qx", "qy", "qz", "tx", "ty", "tz")
_CHANGED = ("pose_priors", "descriptors")


def make_readable(path: Path) -> None:
    """Give a new database of pycolmap's what COLMAP 3.8 asks for. ColmapError when it cannot be written."""
    with _tables(path) as database:
        for name in _PRIORS:
            database.execute(f"ALTER TABLE images ADD COLUMN prior_{name} REAL")
    keep_readable(path)


def keep_readable(path: Path) -> None:
    """After pycolmap has used a database, take out the empty tables it added; one by another program stays as it is."""
    with _tables(path) as database:
        columns = {row[1] for row in database.execute("PRAGMA table_info(images)")}
        tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "prior_qw" in columns:
            for table in _CHANGED:
                if table in tables and database.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is None:
                    database.execute(f"DROP TABLE {table}")


@contextlib.contextmanager
def _tables(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            yield database
    except sqlite3.Error as error:
        raise ColmapError(f"cannot write {path}: {error}; make room and run the same command again") from error
