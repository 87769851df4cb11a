"""The user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder of downloads and measurements: $DISK_HOME (or $DISK_CACHE), else disk-features in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    chosen = os.environ.get("DISK_HOME") or os.environ.get("DISK_CACHE")
    return Path(chosen).expanduser() if chosen else Path(home) / "disk-features"
