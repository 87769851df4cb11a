"""Finding the images of a folder and naming them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from disk.errors import ImageError

EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".ppm", ".pgm", ".heic", ".heif",
)  # fmt: skip


@dataclass(frozen=True)
class ImageFile:
    """An image of a folder.

    name: path below the folder without extension, with '/', such as `rome/0001`: its key everywhere.
    path: where the file is.
    relative: path below the folder with extension, with '/'.
    """

    name: str
    path: Path
    relative: str


def list_images(root: Path, extension: str | None = None) -> list[ImageFile]:
    """All images below a folder, sorted by name, but hidden ones and those of a folder that was met by another way.

    extension: only files with this one (`jpg` or `.jpg`), any case; None for all supported types.
    Raises ImageError for no such folder, no images, and names that cannot be told apart.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise ImageError(f"image folder {root} {what}")
    wanted = EXTENSIONS if extension is None else ("." + extension.lstrip(".").lower(),)
    images, others = [], 0
    for path in _walk(root):
        if path.suffix.lower() in wanted:
            relative = path.relative_to(root)
            images.append(ImageFile(relative.with_suffix("").as_posix(), path, relative.as_posix()))
        else:
            others += 1
    if not images:
        holds = f"holds {others} other files, but no" if others else "holds no"
        kinds = "images" if extension is None else f"{wanted[0]} images"
        raise ImageError(f"{root} {holds} {kinds} ({' '.join(wanted)})")
    images.sort(key=lambda image: image.name)
    _check_names(images)
    return images


def _walk(root: Path) -> list[Path]:
    files, seen = [], {_identity(root)}  # links may lead to the same folder again, and round in circles

    def is_new(folder: Path) -> bool:
        before = len(seen)
        seen.add(_identity(folder))
        return len(seen) > before

    for folder, folders, names in os.walk(root, followlinks=True):
        visible = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in visible if is_new(Path(folder, name))]
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    return files


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _check_names(images: list[ImageFile]) -> None:
    """Every name must be a key of its own in an HDF5 file."""
    by_name: dict[str, ImageFile] = {}
    for image in images:
        if image.name in by_name:
            other = by_name[image.name].relative
            raise ImageError(f"{other} and {image.relative} share the name {image.name!r}; rename one")
        by_name[image.name] = image
        if "|" in image.relative:
            raise ImageError(f"{image.relative}: a name must not hold '|'; rename it")
        try:
            image.relative.encode()
        except UnicodeEncodeError:
            raise ImageError(f"{image.relative!a}: the name is not valid text; rename it") from None
    for folder, name in images_in_images(by_name):
        raise ImageError(
            f"{by_name[folder].relative} and the folder of {by_name[name].relative} share a name; rename one"
        )


def images_in_images(names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Names of two images of which the first is also a folder of the second: an HDF5 file has no place for both."""
    for name in names:
        for folder in PurePosixPath(name).parents:
            if folder.as_posix() in names:
                yield folder.as_posix(), name
