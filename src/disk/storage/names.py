"""Image names as HDF5 keys.

An image's name is its path below the image folder without the extension, such as `rome/0001`. In the
feature files it is the key as it is, so sub-folders become groups. In files of pairs both levels are
flat keys, in which '/' is written '|'; an image name never holds '|'.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import PurePosixPath


def encode_name(name: str) -> str:
    """Image name -> flat key of a file of pairs."""
    return name.replace("/", "|")


def pair_key(first: str, second: str) -> str:
    """Key of a pair of images, by their names."""
    return f"{encode_name(first)}/{encode_name(second)}"


def decode_name(key: str) -> str:
    """Flat key of a file of pairs -> image name."""
    return key.replace("|", "/")


def find_name(word: str, known: Collection[str]) -> str | None:
    """The image that a user's word means, with or without extension; None if there is no such image.

    A name may itself hold a dot, so the whole word is tried first.
    """
    path = PurePosixPath(word.replace("\\", "/"))
    for name in (str(path), str(path.with_suffix("")) if path.name else ""):
        if name in known:
            return name
    return None


def did_you_mean(word: str, known: Collection[str]) -> str:
    """`; did you mean ...?` for a mistyped word, or nothing where no known one is like it."""
    whole = {**{name.split("-")[0]: name for name in known}, **{name: name for name in known}}
    close = difflib.get_close_matches(word, whole, 1, cutoff=0.6)
    return f"; did you mean {whole[close[0]]!r}?" if close else ""
