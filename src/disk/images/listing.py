"""Finding and naming the images of a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from disk.errors import ImageError
from disk.options import AnyPath
from disk.progress import counted, log

EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".ppm", ".pgm", ".heic", ".heif",
)  # fmt: skip
VIDEO_EXTENSIONS = (
    ".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mts", ".m2ts", ".ts", ".mpg", ".mpeg", ".vob", ".3gp", ".3g2",
    ".wmv", ".asf", ".flv", ".ogv", ".mxf", ".insv", ".360", ".lrv", ".h264", ".264", ".h265", ".hevc", ".ivf", ".dv",
)  # fmt: skip
# what `disk` writes; other files in these folders are the user's
_FEATURES, _FRAMES = "keypoints.h5", ".made-from.json"
_BESIDE = {
    _FEATURES: (
        "descriptors.h5",
        "scores.h5",
        "matches.h5",
        "unmatched.h5",
        "inliers.h5",
        "localized.h5",
        "photos.json",
    ),
    _FRAMES: ("frames.json",),
}  # fmt: skip
# folder of pictures beside _FEATURES; `disk view` refuses to write it into a folder of photos
_PICTURES = "view"
# marks of the outputs of `disk reconstruct` or `disk triangulate`, `disk undistort` and `disk demo`, which never
# contain photos of the user
_OUTPUTS = (("options.json", f"artifacts/{_FEATURES}"), (_FRAMES, "images", "sparse/0"), (".disk-demo",))


@dataclass(frozen=True)
class ImageFile:
    """An image in a folder.

    name: its key everywhere: path relative to the folder, with '/', without extension, such as `rome/0001`
    path: path of the file
    relative: path relative to the folder, with '/' and extension
    """

    name: str
    path: Path
    relative: str


def list_images(root: AnyPath, extension: str | None = None) -> list[ImageFile]:
    """All images in a folder and its sub-folders, sorted by name.

    Skips hidden files and outputs of `disk` in the folder; a folder reached through several symlinks is read once.
    root: the folder, or a single image
    extension: only files with this extension (`jpg` or `.jpg`), any case; None: every supported type

    Raises ImageError if the folder does not exist or has no images, or if two images share a name.
    """
    root = Path(root)
    wanted = EXTENSIONS if extension is None else ("." + extension.lstrip(".").lower(),)
    kinds = "images" if extension is None else f"{wanted[0]} images"
    if root.is_file():
        if root.suffix.lower() not in wanted:
            raise ImageError(
                f"{root} is a file, but not one of the {kinds} that can be read ({' '.join(wanted)}){_hint([root])}"
            )
        root, paths = root.parent, [root]
    elif root.is_dir():
        paths = walk(root)
    else:
        raise ImageError(f"image folder {root} does not exist")
    images, others = [], Counter[str]()
    for path in paths:
        if path.suffix.lower() in wanted:
            relative = PurePosixPath(text_of(path.relative_to(root)))
            images.append(ImageFile(relative.with_suffix("").as_posix(), path, relative.as_posix()))
        else:
            others[path.suffix.lower() or "without extension"] += 1
    if not images:
        holds = (
            f"holds {counted(others.total(), 'other file')} ({_by_extension(others)}), but no" if others else "holds no"
        )
        raise ImageError(f"{root} {holds} {kinds} ({' '.join(wanted)}){_hint(paths)}")
    images.sort(key=lambda image: image.name)
    _check_names(images)
    return images


def unused_files(root: Path, images: Sequence[ImageFile]) -> str:
    """The number of files in a folder that are not among the images, by extension (`3 .txt, 1 .cr2`); '' if none."""
    if not root.is_dir():
        return ""
    used = {image.path for image in images}
    return _by_extension(Counter(path.suffix.lower() or "without extension" for path in walk(root) if path not in used))


def named(names: Sequence[str], most: int = 10) -> str:
    """A list of names for a message: the first `most`, and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def text_of(path: Path) -> str:
    """A path as text, with '/'. Names are UTF-8 whatever the locale; raises ImageError if they are not."""
    try:
        return os.fsencode(path.as_posix()).decode()
    except UnicodeDecodeError:
        raise ImageError(f"{path.as_posix()!a}: the name is not valid text; rename it") from None


def path_of(text: str) -> Path:
    """The inverse of `text_of`."""
    return Path(os.fsdecode(text.encode()))


def walk(root: Path) -> list[Path]:
    """All files in a folder and its sub-folders, except hidden ones and outputs of `disk`; visits each folder once."""
    files, seen = [], {_identity(root)}  # symlinks may lead to the same folder twice, or form a loop

    def is_new(folder: Path) -> bool:
        before = len(seen)
        seen.add(_identity(folder))
        return len(seen) > before

    def skip(error: OSError) -> None:
        log.warning("folder %s cannot be listed (%s); its files are not used", error.filename, error.strerror)

    for folder, folders, names in os.walk(root, onerror=skip, followlinks=True):
        ours = [own for mark, beside in _BESIDE.items() if mark in names for own in (mark, *beside)]
        visible = sorted(name for name in folders if not name.startswith("."))
        has_photos = Path(folder) == root or any(name.lower().endswith(EXTENSIONS) for name in names)
        pictures = _PICTURES if _FEATURES in names and not has_photos else None
        outputs = [name for name in visible if name == pictures or _is_output(Path(folder, name))]
        for name in outputs:
            _say_skipped(Path(folder, name))
        folders[:] = [name for name in visible if name not in outputs and is_new(Path(folder, name))]
        files += [Path(folder, name) for name in names if not (name.startswith(".") or name in ours)]
    return files


@lru_cache
def _say_skipped(folder: Path) -> None:
    """Log, once per process, that the files of a folder are not used."""
    log.info("skipping %s: an output of disk", folder)


def _is_output(folder: Path) -> bool:
    return any(all((folder / mark).exists() for mark in marks) for marks in _OUTPUTS)


def _hint(paths: Sequence[Path]) -> str:
    is_video = any(path.suffix.lower() in VIDEO_EXTENSIONS for path in paths)
    return "; `disk frames` extracts images from a video" if is_video else ""


def _identity(folder: Path) -> tuple[int, int] | str:
    status = folder.stat()
    # network drives on Windows have no inode numbers
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)


def _by_extension(extensions: Counter[str]) -> str:
    ordered = sorted(extensions.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {extension}" for extension, count in ordered)


def _check_names(images: list[ImageFile]) -> None:
    """Check that each name can be a key in one HDF5 file."""
    by_name: dict[str, ImageFile] = {}
    for image in images:
        if image.name in by_name:
            other = by_name[image.name].relative
            raise ImageError(f"{other} and {image.relative} share the name {image.name!r}; rename one")
        by_name[image.name] = image
        if "|" in image.relative:
            raise ImageError(f"{image.relative}: a name must not contain '|'; rename it")
    for folder, name in images_in_images(by_name):
        raise ImageError(
            f"{by_name[folder].relative} and the folder of {by_name[name].relative} share a name; rename one"
        )


def images_in_images(names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Pairs of names where the first is also a folder of the second: HDF5 cannot store both."""
    for name in names:
        for folder in PurePosixPath(name).parents:
            if folder.as_posix() in names:
                yield folder.as_posix(), name
