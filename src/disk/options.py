"""Common to all options: how messages spell them, conversion to their types, and shared checks."""

from __future__ import annotations

import contextlib
import numbers
import os
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from disk.errors import DiskError

AnyPath: TypeAlias = str | os.PathLike[str]  # a path as users give it
Precision = Literal["auto", "fp32", "fp16", "bf16"]

_as_flags = False


@contextlib.contextmanager
def spelt_as_flags() -> Iterator[None]:
    """Make messages name options as command-line flags inside the block, instead of as Python arguments."""
    global _as_flags
    before, _as_flags = _as_flags, True
    try:
        yield
    finally:
        _as_flags = before


def option(name: str, value: object = None) -> str:
    """An option as the user writes it: `--max-size 0` on the command line, `max_size=0` in Python."""
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


class Options:
    """Base of the option records: converts each value to the type of its field.

    Strings become paths and NumPy numbers become Python's, so that the recorded options of a run do not depend on how
    they were given.

    Raises DiskError for a value that does not fit the type of its field.
    """

    def __post_init__(self) -> None:
        record: Any = type(self)
        for name, kind in _kinds(record).items():
            object.__setattr__(self, name, as_meant(name, getattr(self, name), kind))


def as_meant(name: str, value: Any, kind: Any) -> Any:
    """Convert the value of an option to the type of its field, such as `int | None`; DiskError if it does not fit."""
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    for one in kinds:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            return _convert(value, one)
    raise DiskError(f"{option(name, value)}: must be {' or '.join(map(_described, kinds))}")


@cache
def _kinds(record: Any) -> dict[str, Any]:
    return get_type_hints(record)


def _convert(value: Any, kind: Any) -> Any:
    """Convert to one type; TypeError or ValueError if it does not fit. Values of other types stay as they are."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _convert(value, inner[0])
    if origin is Literal:
        return inner[[str(choice) for choice in inner].index(_text(value))]
    if origin is tuple:
        several = value if isinstance(value, list | tuple) else (value,)
        return tuple(_convert(each, inner[0]) for each in several)
    if kind is type(None) and value is not None:
        raise TypeError
    if kind is bool:
        return (False, True)[(0, 1).index(value)]
    if kind in (int, float):
        return _number(value, kind)
    if kind is Path:
        return Path(value)
    return _text(value) if kind is str else value


def _number(value: Any, kind: type[int] | type[float]) -> int | float:
    # 0-dimensional arrays and tensors are numbers; strings and booleans are not
    if isinstance(value, str | bytes) or str(getattr(value, "dtype", type(value).__name__)).endswith("bool"):
        raise TypeError
    if isinstance(value, numbers.Integral):
        return kind(value)
    number = float(value)
    if kind is int and not number.is_integer():
        raise ValueError
    return kind(number)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    if type(value).__name__ == "device":  # torch's
        return str(value)
    return os.fspath(value)


def _described(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"one or several, each {_described(get_args(kind)[0])}"
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "text", Path: "a path"}
    return "None" if kind is type(None) else words.get(kind, str(kind))
