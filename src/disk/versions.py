"""Versions of the package and of the libraries that decide what works, without importing any of them."""

from __future__ import annotations

import contextlib
import runpy
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "disk-features"


def installed(distribution: str) -> str | None:
    """The version of an installed distribution; None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def cuda_of_torch() -> str | None:
    """The version of CUDA that torch was built with; None for a build without it, or where it cannot be told."""
    with contextlib.suppress(Exception):  # whatever the file of an odd build raises
        spec = find_spec("torch")
        if spec is not None and spec.origin:
            return runpy.run_path(str(Path(spec.origin).with_name("version.py"))).get("cuda")
    return None


def describe() -> str:
    """What `disk --version` prints."""
    return "\n".join(
        f"{name} {number or 'not installed'}"
        for name, number in [
            (PACKAGE, installed(PACKAGE)),
            ("torch", installed("torch")),
            ("CUDA", cuda_of_torch() or "none, this torch is built without it"),
            ("pycolmap", installed("pycolmap")),
        ]
    )
