"""The note beside results that says what they were made from, so that a later run knows whether they are current."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from disk.storage.new_file import write_json

MADE_FROM = ".made-from.json"


def made_from(folder: Path) -> dict[str, Any]:
    """The note in a folder; empty if it has none."""
    try:
        return dict(json.loads((folder / MADE_FROM).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def note_made_from(folder: Path, note: Mapping[str, Any]) -> None:
    """Write the note in a folder. Raises ArtifactError if it cannot be written."""
    write_json(folder / MADE_FROM, dict(note))
