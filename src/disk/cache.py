"""The user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where what is downloaded or measured lives: $DISK_HOME (or $DISK_CACHE), else the user's cache/disk-features."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    chosen = os.environ.get("DISK_HOME") or os.environ.get("DISK_CACHE")
    return Path(chosen).expanduser() if chosen else Path(home) / "disk-features"
