"""Image names as HDF5 keys.

An image's name is its path below the image folder without the extension, such as `rome/0001`. In the
feature files it is the key as it is, so sub-folders become groups. In files of pairs both levels are
flat keys, in which '/' is written '|'; an image name never holds '|'.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Collection
from pathlib import PurePosixPath, PureWindowsPath

from disk.errors import ArtifactError

_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # on Windows, in every folder
_LONGEST = 4096  # bytes of a path that systems take


def leads_out(name: str, windows: bool = os.name == "nt") -> bool:
    """Whether a name, taken from a file, is no place below the folder it belongs to.

    Absolute, with `..` or NUL, or too long; on Windows also with a drive or stream, and the names of devices.
    """
    parts = PurePosixPath(name).parts
    if windows:
        path = PureWindowsPath(name)
        parts = path.parts
        if path.drive or path.root or ":" in name or any(_DEVICES.fullmatch(part.rstrip(" .")) for part in parts):
            return True
    return not parts or name.startswith("/") or ".." in parts or "\0" in name or len(name) > _LONGEST


def check_below(name: str, where: str) -> None:
    """Raise ArtifactError for an image's name, taken from the file `where`, that leads out of the folder."""
    if leads_out(name):
        raise ArtifactError(f"{where}: {name!r} is no name below a folder of images; the file was not made by DISK")


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
        for form in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
            if form in known:  # macOS has names in which é is two characters
                return form
    return None


def did_you_mean(word: str, known: Collection[str]) -> str:
    """`; did you mean ...?` for a mistyped word, or nothing where no known one is like it."""
    whole = {**{name.split("-")[0]: name for name in known}, **{name: name for name in known}}
    close = difflib.get_close_matches(word, whole, 1, cutoff=0.6)
    return f"; did you mean {whole[close[0]]!r}?" if close else ""
