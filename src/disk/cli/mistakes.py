"""Wrong arguments, explained in one line. tyro decides whether arguments are wrong; this finds out why."""

from __future__ import annotations

import inspect
import types
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from disk.storage.names import did_you_mean

_WORDS = {int: "a whole number", float: "a number", str: "text", Path: "a path"}
_EVERYWHERE = ("--help", "--quiet")  # options of all commands


@dataclass(frozen=True)
class Argument:
    """An option or a positional argument of a command.

    names: the spellings of an option (--x, --no-x), or a positional argument as the usage shows it
    kind: the type of one value
    several: whether it takes more than one value
    """

    names: tuple[str, ...]
    kind: Any
    default: Any
    positional: bool
    several: bool


def first_mistake(arguments: Sequence[Argument], argv: Sequence[str]) -> str | None:
    """What is wrong with the first wrong argument, and what to give instead; None if nothing is found."""
    flags = {flag: each for each in arguments if not each.positional for flag in each.names}
    places = deque(each for each in arguments if each.positional)
    missing = [each for each in places if each.default is inspect.Parameter.empty]
    takes = f"the command takes {' '.join(each.names[0] for each in places) or 'options only'}"
    tokens, only_positional = deque(argv), False
    while tokens:
        token = tokens.popleft()
        if token == "--" and not only_positional:
            only_positional = True
        elif only_positional or not _is_flag(token):
            if not places:
                return f"one argument too many: {token!r}; {takes}"
            place = places[0] if places[0].several else places.popleft()
            if place in missing:
                missing.remove(place)
            if not _accepts(place.kind, token):
                return _wrong(place, place.names[0], token)
        else:
            word, equals, attached = token.partition("=")
            flag = "--" + word[2:].replace("_", "-") if word.startswith("--") else word
            if flag in _EVERYWHERE and not equals:
                continue
            if flag in _EVERYWHERE or (flag in flags and flags[flag].kind is bool and equals):
                return f"{flag} is a switch: give it without {attached!r}"
            if flag not in flags:
                hint = did_you_mean(word, (*flags, *_EVERYWHERE))
                if places and not hint and not word.startswith("--"):
                    hint = f"; if it is a path, write ./{token}"
                return f"no option {word!r}{hint}"
            option = flags[flag]
            if option.kind is bool:
                continue
            values = [attached] if equals else []
            while not equals and tokens and not _is_flag(tokens[0]) and (option.several or not values):
                if option.several and len(tokens) <= sum(not each.several for each in missing):
                    break  # the last words are for the positional arguments
                values.append(tokens.popleft())
            if not values and not option.several:
                dashed = tokens and not tokens[0].startswith("--")
                hint = f"; if {tokens[0]} is the value, write {flag}={tokens[0]}" if dashed else ""
                return f"{flag} needs a value: {_wanted(option)}{hint}"
            for value in values:
                if not _accepts(option.kind, value):
                    return _wrong(option, flag, value)
    if missing:
        names = " and ".join(each.names[0] for each in missing)
        return f"{names} {'is' if len(missing) == 1 else 'are'} missing; {takes}"
    return None


def _is_flag(token: str) -> bool:
    """Whether tyro reads it as an option: `-1,2` and `-inf` are values."""
    if token == "--":
        return True
    with suppress(ValueError):
        float(token)
        return False
    return token.startswith("-") and token.lstrip("-")[:1].isalpha()


def _accepts(kind: Any, value: str) -> bool:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return any(_accepts(one, value) for one in get_args(kind))
    if origin is Literal:
        return value in map(str, get_args(kind))
    if kind is type(None):
        return value == "None"
    if kind in (int, float):
        try:
            kind(value)
        except ValueError:
            return False
        return True
    return value != ""


def _wrong(argument: Argument, name: str, value: str) -> str:
    if not value:
        return f"{name} is empty; give {_wanted(argument)}"
    hint = did_you_mean(value, [word for word in _choices(argument) if word not in ("None", *_WORDS.values())])
    given = repr(value) if "{" in name else f"{name} {value}"  # the usage shows choices, {a,b}, in place of a name
    return f"{given}: must be {_wanted(argument)}{hint}"


def _choices(argument: Argument) -> list[str]:
    """What the argument accepts: words that stand for themselves, and kinds of values."""
    inner = get_args(argument.kind) if get_origin(argument.kind) in (Union, types.UnionType) else (argument.kind,)
    names: list[str] = []
    for kind in inner:
        if get_origin(kind) is Literal:
            names += map(str, get_args(kind))
        elif kind is not type(None) and not (kind is int and float in inner):
            names.append(_WORDS.get(kind, str(kind)))
    if type(None) in inner and argument.default not in (None, inspect.Parameter.empty):
        names.append("None")
    return names


def _wanted(argument: Argument) -> str:
    """`a whole number, auto or None`."""
    *names, last = _choices(argument)
    return f"{', '.join(names)} or {last}" if names else last
