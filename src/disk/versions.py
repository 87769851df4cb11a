"""Versions of the package and its main libraries, without importing them."""

from __future__ import annotations

import contextlib
import runpy
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "disk-features"


def installed(distribution: str) -> str | None:
    """The version of a distribution; None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def cuda_of_torch() -> str | None:
    """The version of CUDA that torch was built with; None for a build without it, or if it cannot be determined."""
    with contextlib.suppress(Exception):  # the file of an unusual build may raise anything
        spec = find_spec("torch")
        if spec is not None and spec.origin:
            return runpy.run_path(str(Path(spec.origin).with_name("version.py"))).get("cuda")
    return None


def describe() -> str:
    """The output of `disk --version`."""
    return "\n".join(
        f"{name} {number or 'not installed'}"
        for name, number in [
            (PACKAGE, installed(PACKAGE)),
            ("torch", installed("torch")),
            ("CUDA", cuda_of_torch() or "none (this torch is built without CUDA)"),
            ("pycolmap", installed("pycolmap")),
        ]
    )
