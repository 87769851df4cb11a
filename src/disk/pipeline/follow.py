"""Keeping artifacts in line with the folder of photos: results of removed and changed photos are deleted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from disk.errors import ArtifactError, ImageError
from disk.images.listing import ImageFile, named
from disk.images.reading import image_size, one_large_at_a_time, read_image
from disk.options import option
from disk.progress import counted, log, track
from disk.storage.artifacts import KEYPOINTS, FeatureStore, read_features
from disk.storage.download import file_hash
from disk.storage.forget import forget_images, known_images
from disk.storage.locks import folder_lock
from disk.storage.new_file import write_json

PHOTOS = "photos.json"  # state of each photo when its features were detected
_NAMED = 5  # photos in a message


@dataclass(frozen=True)
class Changes:
    """Names of images that were removed from the folder, changed or added since the features were detected.

    unreadable: why images could not be decoded by an earlier run, by name; their files are the same now
    """

    gone: list[str]
    changed: list[str]
    new: list[str]
    unreadable: dict[str, str]


@dataclass(frozen=True)
class _Photo:
    """A file: path relative to the folder, size in bytes, modification time (ns), and hash of the content.

    unreadable: why it cannot be decoded; '' if it can
    """

    relative: str
    bytes: int
    modified: int
    sha256: str
    unreadable: str = ""


def follow_folder(artifacts: Path, files: Sequence[ImageFile], folder: Path, keep_gone: bool = False) -> Changes:
    """Delete the features, matches and inliers of images that were removed from the folder or have changed.

    A photo is unchanged if its size and modification time are the same, or else its content. The caller holds
    `folder_lock`.
    keep_gone: keep the results of photos that are not in the folder, so that artifacts may cover several folders

    Raises ArtifactError, before anything changes, if the folder has none of the known photos.
    """
    known, before = known_images(artifacts), _read(artifacts / PHOTOS)
    if keep_gone:
        kept = known - {file.name for file in files}
        if kept:
            log.info(
                "keeping the features of %s in %s, missing from %s", counted(len(kept), "image"), artifacts, folder
            )
        known -= kept
    now = _photos(files, before)
    by_name = {file.name: file for file in files}
    gone = sorted(known - set(by_name))
    changed = sorted(_others(artifacts, [by_name[name] for name in known & set(now)], before, now))
    if known and not keep_gone and len(gone) + len(changed) == len(known):
        raise ArtifactError(
            f"{folder} has none of the {len(known)} photos that {artifacts} was made from, such as {min(known)!r}; is "
            f"it the wrong folder? Use another output, or {option('overwrite', True)}"
        )
    unreadable = {name: photo.unreadable for name, photo in now.items() if photo.unreadable and name not in known}
    changes = Changes(gone, changed, sorted(set(now) - known - set(unreadable)), unreadable)
    # delete results first, then update the record of the photos: if killed in between, the next run repeats it
    forget_images(artifacts, {*gone, *changed})
    noted = before | now if keep_gone else {name: photo for name, photo in (before | now).items() if name in by_name}
    if before != noted:
        _write(artifacts, noted)
    for names, what in (
        (gone, "no longer in the folder; results deleted"),
        (changed, "changed; processing again"),
    ):
        if names:
            log.warning("%s %s: %s", counted(len(names), "photo"), what, named(names, _NAMED))
    # an earlier run has reported the others, but detected no features in them
    unseen = [name for name in changes.new if name not in before or before[name].sha256 != now[name].sha256]
    if known and unseen:
        log.info("%s: %s", counted(len(unseen), "new photo"), named(unseen, _NAMED))
    if unreadable and not keep_gone:
        names = sorted(unreadable)
        log.warning(
            "skipping %s that could not be decoded before: %s", counted(len(names), "photo"), named(names, _NAMED)
        )
    return changes


def why_without_features(artifacts: Path, files: Sequence[ImageFile], changes: Changes) -> dict[str, str]:
    """Why files have no features after detection, by path.

    Records which of them cannot be decoded: `Changes.unreadable` of later runs has these until the files change.
    """
    with read_features(artifacts) as features:
        known = set(features.names)
    without = [file for file in files if file.name not in known]
    with folder_lock(artifacts):
        noted = _read(artifacts / PHOTOS)
        found = {file.name: _why_unreadable(file) for file in without if file.name not in changes.unreadable}
        damaged = {name: str(error) for name, error in found.items() if error and _is_damage(error)}
        now = {name: replace(noted[name], unreadable=why) for name, why in damaged.items() if name in noted}
        if now:
            _write(artifacts, noted | now)
    # the others fail for another reason, such as their masks
    reasons = {name: str(error or "no features could be detected") for name, error in found.items()}
    return {file.relative: (reasons | changes.unreadable)[file.name] for file in without}


def _why_unreadable(file: ImageFile) -> ImageError | None:
    try:
        with one_large_at_a_time(file.path):
            read_image(file.path)
    except ImageError as error:
        return error
    except MemoryError:
        pass
    return None


def _is_damage(error: ImageError) -> bool:
    """Whether the content of the file is at fault, not the disk, its permissions or the memory."""
    cause = error.__context__
    return not isinstance(cause, MemoryError) and getattr(cause, "errno", None) is None


def changed_photos(artifacts: Path, files: Sequence[ImageFile]) -> list[str]:
    """Names of the files whose content has changed since their features were detected."""
    before = _read(artifacts / PHOTOS)
    now = _photos([file for file in files if file.name in before], before)
    return sorted(name for name, photo in now.items() if photo.sha256 != before[name].sha256)


def _others(
    artifacts: Path, files: Sequence[ImageFile], before: dict[str, _Photo], now: dict[str, _Photo]
) -> Iterator[str]:
    """Names of the files that changed since their features were detected."""
    unnoted = []
    for file in files:
        if file.name not in before:
            unnoted.append(file)
            continue
        was, is_ = before[file.name], now[file.name]
        if (was.relative, was.sha256) != (is_.relative, is_.sha256):
            yield file.name
    if unnoted and (artifacts / KEYPOINTS).is_file():
        with read_features(artifacts) as features:  # no entry in photos.json: compare path and size
            yield from (file.name for file in unnoted if _has_other_size(features, file))


def _has_other_size(features: FeatureStore, file: ImageFile) -> bool:
    try:
        return (features.image_path(file.name), features.image_size(file.name)) != (
            file.relative,
            image_size(file.path),
        )
    except (ArtifactError, ImageError):
        return False


def _photos(files: Sequence[ImageFile], before: dict[str, _Photo]) -> dict[str, _Photo]:
    """The current state of the files, by name; reads the content only if size or modification time differ.

    Skips files that cannot be read, such as broken links: detection reports them.
    """
    found = {}
    unread = []
    for file in files:
        try:
            status, known = file.path.stat(), before.get(file.name)
        except OSError:
            continue
        found[file.name] = _Photo(file.relative, status.st_size, status.st_mtime_ns, "")
        if known is not None and (known.bytes, known.modified) == (status.st_size, status.st_mtime_ns):
            found[file.name] = replace(found[file.name], sha256=known.sha256, unreadable=known.unreadable)
        else:
            unread.append(file)
    for file in track(unread, "read photos", "photo") if unread else ():
        try:
            found[file.name] = replace(found[file.name], sha256=file_hash(file.path, "sha256"))
        except OSError:
            del found[file.name]
    return found


def _read(path: Path) -> dict[str, _Photo]:
    try:
        return {name: _Photo(**entry) for name, entry in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(artifacts: Path, photos: Mapping[str, _Photo]) -> None:
    entries = {name: asdict(photo) for name, photo in sorted(photos.items())}
    for entry in entries.values():
        if not entry["unreadable"]:
            del entry["unreadable"]
    write_json(artifacts / PHOTOS, entries)
