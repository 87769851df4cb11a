"""Wrapping of help at the width of the terminal (80 columns in a pipe)."""

from __future__ import annotations

import io
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_HEAD = re.compile(r"usage: |example:  | +\S+ {2,}| *")  # the wrapped rest of a line is indented by the length of this
_ARGUMENT = re.compile(r"[ │] [-A-Z{[]")  # a line of a panel that begins with an argument
_GROUP = re.compile(r"\[[^]]*\]")  # `[--plot PATH]` in the usage stays in one line


def wrapped(text: str) -> str:
    """Wrap the lines that are wider than the terminal, and drop the empty ones that tyro leaves between options."""
    width = shutil.get_terminal_size().columns
    lines = text.split("\n")
    plain = [_COLOUR.sub("", line) for line in lines]
    return "\n".join(
        _wrapped(line, width)
        for line, this, after in zip(lines, plain, [*plain[1:], ""], strict=True)
        if this.strip(" │") or not _ARGUMENT.match(after)
    )


def _wrapped(line: str, width: int) -> str:
    plain = _COLOUR.sub("", line)
    if len(plain) <= width:
        return line
    head = _HEAD.match(plain)
    assert head is not None  # it matches everything
    joined = _GROUP.sub(lambda group: group[0].replace(" ", "\0"), plain)
    parts = textwrap.wrap(
        joined, width, subsequent_indent=" " * head.end(), break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(parts).replace("\0", " ")


class _Collected(io.StringIO):
    """What is printed to a stream; looks like the stream, so that colours and box characters are the same."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream

    @property
    def encoding(self) -> Any:  # type: ignore[override]
        return getattr(self._stream, "encoding", None)

    def isatty(self) -> bool:
        return bool(self._stream.isatty())


@contextmanager
def wrapped_output() -> Iterator[None]:
    """Wrap what is printed inside the block, once it ends."""
    collected = _Collected(sys.stdout)
    try:
        with redirect_stdout(collected):
            yield
    finally:
        print(wrapped(collected.getvalue()), end="")
