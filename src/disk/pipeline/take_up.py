"""Resuming in the output of an earlier `disk reconstruct`, or clearing it, even if that run was killed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from disk.errors import ArtifactError
from disk.options import option
from disk.pipeline.follow import PHOTOS
from disk.pipeline.map import RIG, remap_remedy
from disk.pipeline.options import MapperChoice
from disk.pipeline.summary import AGREEMENT, SUMMARY
from disk.storage.artifacts import IN_MODEL
from disk.storage.new_file import write_json
from disk.storage.shards import check_same

OPTIONS = "options.json"
UNDISTORTED = "undistorted"
_CLEARING = "overwriting"  # recorded among the options while the old output is being deleted
_LEFT_OUT = ("pairs_file",)  # recorded by earlier versions only


def take_up(out: Path, options: Mapping[str, str], overwrite: bool, remap: bool = False) -> None:
    """Clear an output if `overwrite` is set, or if a run with it was killed while clearing.

    The caller holds `folder_lock`, and calls `note_options` once all other checks have passed.
    options: of this run
    remap: accept other options of mapping

    Raises ArtifactError, before anything changes, if the output was made with other options.
    """
    path = out / OPTIONS
    before = _read(path) if path.exists() and not overwrite else {}
    if before:
        known = {key: value for key, value in before.items() if key != _CLEARING}
        if known.get("poses") != options.get("poses"):
            made = "triangulate" if "poses" in known else "reconstruct"
            raise ArtifactError(f"{out} was made by `disk {made}`; use another output, or {option('overwrite', True)}")
        if _but_mapping(known) != _but_mapping(options):
            check_same(out, known, options)
        if not remap:
            check_same(out, known, options, remap_remedy())
    if overwrite or _CLEARING in before:
        # recorded first, so that the next run finishes the clearing if this one is killed
        write_json(path, {**options, _CLEARING: "yes"})
        _clear(out)


def _but_mapping(options: Mapping[str, str]) -> dict[str, str]:
    of_mapping = {item.name for item in fields(MapperChoice)}
    return {key: value for key, value in options.items() if key not in of_mapping}


def note_options(out: Path, options: Mapping[str, str]) -> None:
    """Record the options an output is made with. Raises ArtifactError if they cannot be written."""
    write_json(out / OPTIONS, dict(options))


def _read(path: Path) -> dict[str, str]:
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise ArtifactError(f"{path} is damaged; use another folder, or {option('overwrite', True)}") from None
    return {key: value for key, value in before.items() if key not in _LEFT_OUT}


def _clear(out: Path) -> None:
    """Delete what an earlier run wrote, last stage first."""
    for file in (SUMMARY, RIG, AGREEMENT, "report.html", "points.ply", "database.db"):
        for suffix in ("", "-wal", "-shm", "-journal"):
            (out / f"{file}{suffix}").unlink(missing_ok=True)
    for folder in (UNDISTORTED, ".sparse.tmp", "sparse"):
        shutil.rmtree(out / folder, ignore_errors=True)
    artifacts = out / IN_MODEL
    for path in [*artifacts.glob("*.h5"), *artifacts.glob(".*.h5"), artifacts / PHOTOS]:
        path.unlink(missing_ok=True)
