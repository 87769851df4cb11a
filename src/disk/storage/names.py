"""Image names as HDF5 keys.

The name of an image is its path relative to the image folder, without extension, such as `rome/0001`. Feature files
use it unchanged as the key, so sub-folders become groups. Files of pairs use flat keys on both levels, with '|' for
'/'; an image name never contains '|'.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Collection
from pathlib import PurePosixPath, PureWindowsPath

from disk.errors import ArtifactError

_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # reserved on Windows, in every folder
_LONGEST = 4096  # bytes, the longest path that systems accept


def leads_out(name: str, windows: bool = os.name == "nt") -> bool:
    """Whether a name read from a file could lead out of its folder.

    True if it is absolute, contains `..` or NUL, or is too long; on Windows also if it has a drive or a stream, or is
    the name of a device.
    """
    parts = PurePosixPath(name).parts
    if windows:
        path = PureWindowsPath(name)
        parts = path.parts
        if path.drive or path.root or ":" in name or any(_DEVICES.fullmatch(part.rstrip(" .")) for part in parts):
            return True
    return not parts or name.startswith("/") or ".." in parts or "\0" in name or len(name) > _LONGEST


def check_below(name: str, where: str) -> None:
    """Raise ArtifactError if an image name read from the file `where` leads out of its folder."""
    if leads_out(name):
        raise ArtifactError(f"{where}: {name!r} leads out of the image folder; the file was not made by DISK")


def image_name(path: str) -> str:
    """Path of an image relative to the image folder, with '/' -> its name: the path without extension."""
    return PurePosixPath(path).with_suffix("").as_posix()


def encode_name(name: str) -> str:
    """Image name -> flat key in a file of pairs."""
    return name.replace("/", "|")


def pair_key(first: str, second: str) -> str:
    """Key of a pair of images in a file of pairs."""
    return f"{encode_name(first)}/{encode_name(second)}"


def decode_name(key: str) -> str:
    """Flat key in a file of pairs -> image name."""
    return key.replace("|", "/")


def find_name(word: str, known: Collection[str]) -> str | None:
    """The known image that a word from the user names, with or without extension; None if there is none.

    A name may contain a dot, so the whole word is tried first.
    """
    path = PurePosixPath(word.replace("\\", "/"))
    for name in (str(path), str(path.with_suffix("")) if path.name else ""):
        for form in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
            if form in known:  # on macOS, é in names may be two characters
                return form
    return None


def did_you_mean(word: str, known: Collection[str]) -> str:
    """`; did you mean ...?` for a mistyped word or option; empty if no known word is similar."""
    bare = {name.lstrip("-"): name for name in known}
    whole = {**{name.split("-")[0]: bare[name] for name in bare}, **bare}
    close = difflib.get_close_matches(word.lstrip("-"), whole, 1, cutoff=0.6)
    return f"; did you mean {whole[close[0]]!r}?" if close else ""
