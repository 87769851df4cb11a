"""Which pairs of images to match: all, neighbours in a sequence, or those in a list.

A pair is (name0, name1) with name0 < name1; lists of pairs are sorted and without duplicates.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from disk.errors import PairsError
from disk.options import check_minimum
from disk.storage.names import find_name

Pair = tuple[str, str]


def exhaustive(names: Iterable[str]) -> list[Pair]:
    """Every pair of different images."""
    return list(itertools.combinations(sorted(set(names)), 2))


def sequential(names: Iterable[str], overlap: int) -> list[Pair]:
    """Pair each image with the `overlap` images after it, in natural order: frame2 comes before frame10.

    Raises DiskError for an overlap below 1.
    """
    check_minimum("overlap", overlap, 1)
    in_order = list(order(names))
    return tidy((name, other) for i, name in enumerate(in_order) for other in in_order[i + 1 : i + 1 + overlap])


def order(names: Iterable[str]) -> dict[str, int]:
    """The position of each image in natural order, sorted by it."""
    return {name: place for place, name in enumerate(sorted(set(names), key=_natural))}


def from_file(path: Path, names: Collection[str]) -> list[Pair]:
    """The pairs of a text file of `name0 name1` lines, names with or without extension.

    It ignores anything after the two names (lists of ground-truth poses have more), empty lines, and lines that start
    with #.
    names: known images

    Raises PairsError, with the line number, for unknown images and for an image paired with itself.
    """
    known = set(names)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise PairsError(f"cannot read the pairs in {path}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise PairsError(f"{path} is not a text file; expected lines of `name0 name1`") from None
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            pair = _parse(line, known, f"{path}, line {number}")
            if pair[0] == pair[1]:
                raise PairsError(f"{path}, line {number}: {pair[0]!r} is paired with itself; remove the line")
            pairs.append(pair)
    if not pairs:
        raise PairsError(f"{path} holds no pairs; expected lines of `name0 name1`")
    return tidy(pairs)


def connected(pairs: Iterable[Pair]) -> list[list[str]]:
    """Connected components of the images by the pairs: groups of sorted names, the largest group first."""
    group_of: dict[str, set[str]] = {}
    for pair in pairs:
        small, large = sorted((group_of.setdefault(name, {name}) for name in pair), key=len)
        if small is not large:
            large |= small
            group_of.update(dict.fromkeys(small, large))
    groups = {id(group): group for group in group_of.values()}
    return sorted(map(sorted, groups.values()), key=lambda names: (-len(names), names))


def _parse(line: str, known: set[str], where: str) -> Pair:
    words = line.split()
    if len(words) < 2:
        raise PairsError(f"{where}: expected two image names, got {line.strip()!r}")
    first, second = find_name(words[0], known), find_name(words[1], known)
    if first is not None and second is not None:
        return first, second
    for cut in range(1, len(words)):  # names with spaces: find where two known names meet
        left, right = find_name(" ".join(words[:cut]), known), find_name(" ".join(words[cut:]), known)
        if left is not None and right is not None:
            return left, right
    unknown = words[0] if first is None else words[1]
    raise PairsError(f"{where}: no features of {unknown!r}; detect the image, or correct the line")


def _natural(name: str) -> tuple[list[str | int], str]:
    # split puts text at even positions and numbers at odd ones, so like is compared with like
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def tidy(pairs: Iterable[Pair]) -> list[Pair]:
    """Sorted pairs without duplicates, the smaller name first in each."""
    return sorted({(min(pair), max(pair)) for pair in pairs})
