"""What all options have in common: how they are spelt in messages, and checks that many of them need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

from disk.errors import DiskError

Precision = Literal["auto", "fp32", "fp16", "bf16"]

_as_flags = False


@contextlib.contextmanager
def spelt_as_flags() -> Iterator[None]:
    """Within it messages name options as flags of the command line, elsewhere as arguments in Python."""
    global _as_flags
    before, _as_flags = _as_flags, True
    try:
        yield
    finally:
        _as_flags = before


def option(name: str, value: object = None) -> str:
    """An option as its user writes it: `--max-size 0` on the command line, `max_size=0` in Python."""
    if _as_flags:
        flag = "--" + name.replace("_", "-")
        return flag if value is None or value is True else f"{flag} {value}"
    return name if value is None else f"{name}={value!r}"


def check_at_least(options: Any, **least: int) -> None:
    """Raise DiskError for a field below its minimum; None passes."""
    for name, minimum in least.items():
        check_minimum(name, getattr(options, name), minimum)


def check_minimum(name: str, value: int | float | None, minimum: int) -> None:
    """Raise DiskError for an option below its minimum; None passes."""
    if value is not None and not value >= minimum:
        raise DiskError(f"{option(name, value)}: must be at least {minimum}")
