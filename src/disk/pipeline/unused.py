"""Reporting options that have no effect in combination with the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from disk.options import option
from disk.progress import log


def unused_flags(options: Any, only_for: Mapping[str, str]) -> list[str]:
    """Texts such as `overlap is for pairs='sequential'` for the named options that do not have their default value.

    only_for: purpose of each option that is not used
    """
    defaults = {field.name: field.default for field in fields(options)}
    return [
        f"{option(name)} is for {purpose}"
        for name, purpose in only_for.items()
        if getattr(options, name) != defaults[name]
    ]


def log_unused(unused: list[str]) -> None:
    """Log a warning for each option without effect."""
    for reason in unused:
        log.warning("not used: %s", reason)
