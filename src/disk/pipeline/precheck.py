"""Checks before the work starts: damaged files, shared cameras, lists of pairs, disk space."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from disk.errors import ArtifactError, ColmapError, ImageError, require
from disk.images.listing import ImageFile
from disk.images.reading import image_size
from disk.options import option
from disk.pairs.choose import Pair, connected, from_file
from disk.progress import counted
from disk.storage.new_file import free_bytes

_PER_KEYPOINT = 4 * (128 + 2 + 1)  # bytes
_PIXELS_PER_KEYPOINT = 100  # photos have a higher density of keypoints, blank walls a lower one
_GROUPS_NAMED = 3
Sizes = dict[str, tuple[int, int]]  # (width, height) by name


def read_sizes(files: Sequence[ImageFile]) -> tuple[Sizes, dict[str, str]]:
    """Read image sizes from the headers; return them by name, and by relative path why others cannot be read.

    Raises ImageError if none can be read.
    """
    sizes, failed = Sizes(), dict[str, str]()
    for file in files:
        try:
            sizes[file.name] = image_size(file.path)
        except ImageError as error:
            failed[file.relative] = str(error)
    if not sizes:
        raise _none_readable(len(files), next(iter(failed.values())))
    return sizes, failed


def _none_readable(count: int, problem: str) -> ImageError:
    return ImageError(f"none of the images could be read ({count}); the first: {problem}")


def check_readable(files: Sequence[ImageFile]) -> None:
    """Read the headers of images until one is readable. Raises ImageError if none is."""
    problem = ""
    for file in files:
        try:
            image_size(file.path)
            return
        except ImageError as error:
            problem = problem or str(error)
    raise _none_readable(len(files), problem)


def check_output(files: Sequence[ImageFile], out: Path, overwrite: bool) -> None:
    """Raise ArtifactError for an output that contains photos or another program's model, or cannot be written."""
    place = out.resolve()
    inside = [file.relative for file in files if place in file.path.resolve().parents]
    if inside:
        raise ArtifactError(
            f"{out} contains {len(inside)} of the photos, such as {inside[0]}: pictures of the model would be taken "
            "for photos; use another output"
        )
    ours = any((out / name).exists() for name in ("options.json", "artifacts/keypoints.h5"))
    foreign = [name for name in ("sparse", "database.db", "points.ply") if (out / name).exists()]
    if foreign and not ours and not overwrite:
        raise ArtifactError(
            f"{out / foreign[0]} was not made by `disk reconstruct`; use another output, or {option('overwrite', True)}"
        )
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise ArtifactError(f"cannot write in {existing}: {'not permitted' if existing.is_dir() else 'it is a file'}")


def check_room(out: Path, sizes: Sizes, n: int | None, max_size: int) -> None:
    """Raise ArtifactError if the features of the images do not fit on the disk.

    sizes: of the images, in pixels
    n: keypoint budget of an image
    max_size: of the long side of an image, in pixels; 0: unlimited
    """
    need = 0
    for width, height in sizes.values():
        shrink = min(1.0, max_size / max(width, height)) if max_size else 1.0
        found = int(width * height * shrink**2) // _PIXELS_PER_KEYPOINT
        need += _PER_KEYPOINT * (found if n is None else min(n, found))
    need *= 2  # shards and what they are merged into
    place = out.resolve()
    free = free_bytes(next(folder for folder in (place, *place.parents) if folder.exists()))
    if free < need:
        raise ArtifactError(
            f"the features of {counted(len(sizes), 'image')} need about {need / 1e9:.2f} GB in {out}, where only "
            f"{free / 1e9:.2f} GB are free; free disk space, use another disk, or keep fewer keypoints ({option('n')})"
        )


def check_pairs_file(path: Path, names: Collection[str]) -> list[Pair]:
    """Read and check a list of pairs.

    Raises PairsError for unknown images, ColmapError if there are several pairs but no image is in two of them.
    """
    pairs = from_file(path, names)
    groups = connected(pairs)
    if len(groups) > 1 and len(groups[0]) == 2:
        raise ColmapError(
            f"the list {path} does not connect: none of its {len(pairs)} pairs share an image; "
            "a model needs pairs that share images"
        )
    return pairs


def describe_groups(groups: Sequence[Sequence[str]]) -> str:
    """`3 groups: a, b, c; d, e; f, g`, shortened."""
    shown = ["{}{}".format(", ".join(g[:3]), ", ..." if len(g) > 3 else "") for g in groups[:_GROUPS_NAMED]]
    return f"{len(groups)} groups: {'; '.join(shown)}{'; ...' if len(groups) > _GROUPS_NAMED else ''}"


def check_shared(files: Sequence[ImageFile], sizes: Sizes, per: Literal["image", "folder", "collection"]) -> None:
    """Raise ColmapError if images of different sizes would share a camera."""
    from disk.colmap.plan import check_shared_cameras

    check_shared_cameras([file for file in files if file.name in sizes], per)


def check_matcher(matcher: str) -> None:
    """Raise MissingExtraError for a matcher whose library is not installed."""
    if matcher == "lightglue":
        require("kornia")
