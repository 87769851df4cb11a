"""What was given to a command but has no effect beside the other options: said, never dropped in silence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from disk.options import option
from disk.progress import log


def unused_flags(options: Any, only_for: Mapping[str, str]) -> list[str]:
    """Those of the named options that are not at their defaults, as `overlap is for pairs=.sequential.`.

    only_for: what each option is for, when it is known not to be used.
    """
    defaults = {field.name: field.default for field in fields(options)}
    return [
        f"{option(name)} is for {purpose}"
        for name, purpose in only_for.items()
        if getattr(options, name) != defaults[name]
    ]


def log_unused(unused: list[str]) -> None:
    """Say what is not used."""
    for reason in unused:
        log.warning("not used: %s", reason)
