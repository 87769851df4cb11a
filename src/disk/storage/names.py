"""Image names as HDF5 keys.

An image's name is its path below the image folder without the extension, such as `rome/0001`. In the
feature files it is the key as it is, so sub-folders become groups. In files of pairs both levels are
flat keys, in which '/' is written '|'; an image name never holds '|'.
"""

from __future__ import annotations


def encode_name(name: str) -> str:
    """Image name -> flat key of a file of pairs."""
    return name.replace("/", "|")


def pair_key(first: str, second: str) -> str:
    """Key of a pair of images, by their names."""
    return f"{encode_name(first)}/{encode_name(second)}"


def decode_name(key: str) -> str:
    """Flat key of a file of pairs -> image name."""
    return key.replace("|", "/")
