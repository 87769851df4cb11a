"""Viewing results: the page of a model, and pictures of keypoints or matches."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from disk.errors import ArtifactError, ColmapError, DiskError, ImageError, PairsError, PartialFailureError
from disk.images.listing import list_images, named, path_of
from disk.options import AnyPath, Options, as_meant, check_at_least, option
from disk.pairs.choose import from_file
from disk.pipeline.follow import changed_photos
from disk.pipeline.pictures import draw_keypoints_of, draw_matches_of
from disk.pipeline.precheck import check_readable
from disk.pipeline.report import write_model_page
from disk.pipeline.summary import read_summary
from disk.progress import counted, log, track
from disk.storage.artifacts import (
    INLIERS,
    KEYPOINTS,
    MatchStore,
    artifacts_folder,
    beside,
    read_features,
    read_matches,
)
from disk.storage.names import did_you_mean, find_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

What = Literal["page", "keypoints", "matches"]
_LONGEST = 200  # bytes of a file name; file systems allow 255, including suffixes


@dataclass(frozen=True, kw_only=True)
class ViewOptions(Options):
    """Which pictures to draw and where to save them."""

    save: Path | None = None
    """Folder for the pictures (.jpg); default: open windows or, without a display, ARTIFACTS/view. For page: folder for
    report.html; default: the model's folder, and open it in a browser."""
    image_extension: str | None = None
    """Use only images with this extension, any case; default: all supported types."""
    pairs: tuple[str, ...] = ()
    """Draw only these pairs: names `A B [C D ...]`, with or without extension, or a file with lines `name0 name1`."""
    limit: int | None = None
    """Maximum number of pictures: of matches, the pairs with the most matches; of keypoints, the first by name."""


@dataclass(frozen=True)
class _Picture:
    """A picture to draw: its name as a path without suffix, and the function that draws it."""

    name: str
    draw: Callable[[Figure], None]


def view(
    artifacts: AnyPath,
    images: AnyPath | None = None,
    what: What | None = None,
    options: ViewOptions = ViewOptions(),
) -> list[Path]:
    """Show the page of a model, or draw keypoints (coloured by score) or matches (coloured by whether verified).

    Returns the saved files.
    artifacts: an artifacts folder, or a model
    images: folder of the photos; None: the one recorded in the model
    what: None: the page for a model; matches for artifacts, or with options for pictures

    Raises PartialFailureError if some images are missing or damaged and the rest is done.
    """
    what = _usual(Path(artifacts), options) if what is None else as_meant("what", what, What)
    if what == "page":
        return [_show_page(Path(artifacts), images, options)]
    artifacts = artifacts_folder(artifacts)
    images = _photos_of(artifacts) if images is None else Path(images)
    check_at_least(options, limit=1)
    target = _target(artifacts, options.save)
    files = list_images(images, options.image_extension)
    check_readable(files)
    _refuse_among_photos(target, images)
    paths = {file.name: file.path for file in files}
    with read_features(artifacts) as features:
        known = set(features.names)
        if not known & set(paths):
            raise ImageError(f"{images} has none of the {len(features)} images of {artifacts}; is it the wrong folder?")
        changed = changed_photos(artifacts, [file for file in files if file.name in known])
        if changed:
            log.warning("%s changed after detection: %s", counted(len(changed), "photo"), named(changed))
        pairs = _chosen_pairs(options.pairs, features.names)
        if what == "keypoints":
            # a single image instead of a folder selects that image
            wanted = [name for name in features.names if name in paths] if images.is_file() else features.names
            names = wanted if pairs is None else sorted({name for pair in pairs for name in pair})
            pictures = [_Picture(name, draw_keypoints_of(features, paths, name)) for name in names[: options.limit]]
            return _produce(pictures, target)
        with read_matches(artifacts) as matches:
            chosen = _strongest(matches, pairs, options.limit)
            inliers = read_matches(artifacts, INLIERS) if (artifacts / INLIERS).is_file() else None
            if inliers is None:
                log.info("no %s in %s: matches are not verified yet; run `disk verify`", INLIERS, artifacts)
            pictures = [
                _Picture(picture_name(pair), draw_matches_of(features, matches, inliers, paths, pair))
                for pair in chosen
            ]
            return _produce(pictures, target)


def _usual(folder: Path, options: ViewOptions) -> What:
    """The default view of a folder."""
    places = (folder, folder / "sparse", *folder.glob("sparse/*"))
    is_model = any((place / f"images.{kind}").is_file() for place in places for kind in ("bin", "txt"))
    has_features = (artifacts_folder(folder) / KEYPOINTS).is_file()  # else there are no other pictures
    return "page" if is_model and (options == ViewOptions() or not has_features) else "matches"


def _show_page(model: Path, images: AnyPath | None, options: ViewOptions) -> Path:
    """Write the page of a model; open it if there is a display and no folder to save to."""
    if options.pairs or options.limit is not None or options.image_extension is not None:
        raise DiskError(f"the page of a model shows all its photos; {option('save')} is the only option it takes")
    page = write_model_page(model, images, options.save)
    log.info("wrote %s", page)
    if options.save is None and _has_browser():
        webbrowser.open(page.resolve().as_uri())
    return page


def _has_browser() -> bool:
    """Whether a browser would open in a window; a text browser would block the terminal."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _photos_of(artifacts: Path) -> Path:
    """The folder of photos recorded in the summary of the artifacts' model."""
    try:
        photos = Path(read_summary(beside(artifacts)).photos)
    except ColmapError:
        photos = Path()
    if photos == Path() or not photos.is_dir():
        raise ImageError(f"the photos of {artifacts} are not found; give their folder: disk view {artifacts} IMAGES")
    return photos


def picture_name(pair: tuple[str, str]) -> str:
    """A unique file name for the picture of a pair: a/1 and b/2 give `a%2F1--b%2F2`."""
    return "--".join(map(_escaped, pair))


_REFUSED = re.compile(r'[%/\\:*?"<>|]')  # '%' itself, and characters not allowed in file names on Windows


def _escaped(name: str) -> str:
    name = _REFUSED.sub(lambda found: f"%{ord(found[0]):02X}", name)
    # '--' may only separate the two names of a pair
    return name.replace("-", "%2D") if "--" in f"-{name}-" else name


def _fitting(name: str) -> str:
    """Shorten the last part of a path to what file systems allow; a hash keeps shortened names distinct."""
    folder, _, last = name.rpartition("/")
    if len(last.encode()) > _LONGEST:
        digest = hashlib.sha256(last.encode()).hexdigest()[:12]
        last = f"{last.encode()[: _LONGEST - 13].decode(errors='ignore')}-{digest}"
    return f"{folder}/{last}" if folder else last


def _chosen_pairs(wanted: tuple[str, ...], names: list[str]) -> list[tuple[str, str]] | None:
    """The requested pairs, names sorted within each; None for all."""
    if not wanted:
        return None
    known = set(names)
    if len(wanted) == 1 and (Path(wanted[0]).is_file() or find_name(wanted[0], known) is None):
        return from_file(Path(wanted[0]), names)
    if len(wanted) % 2:
        raise PairsError(
            f"{option('pairs')} needs an even number of names, or one file; got {counted(len(wanted), 'name')}"
        )
    found = {word: find_name(word, known) for word in wanted}
    unknown = [f"{word}{did_you_mean(word, known)}" for word, name in found.items() if name is None]
    if unknown:
        raise PairsError(f"no features of {', '.join(unknown)}; names are paths relative to the image folder")
    chosen = [found[word] or "" for word in wanted]
    pairs = {(min(a, b), max(a, b)) for a, b in zip(chosen[::2], chosen[1::2], strict=True)}
    alone = [a for a, b in pairs if a == b]
    if alone:
        raise PairsError(f"{option('pairs')}: {alone[0]!r} is paired with itself")
    return sorted(pairs)


def _strongest(matches: MatchStore, pairs: list[tuple[str, str]] | None, limit: int | None) -> list[tuple[str, str]]:
    """The pairs to draw, sorted; above the limit, those with the most matches."""
    stored = matches.pairs()
    if pairs is not None:
        known = set(stored)
        missing = [pair for pair in pairs if pair not in known]
        if missing:
            raise PairsError(f"not matched: {', '.join(' '.join(pair) for pair in missing)}; run `disk match`")
        stored = pairs
    if limit is None or len(stored) <= limit:
        return stored
    return sorted(sorted(stored, key=lambda pair: -matches[pair].shape[1])[:limit])


def _target(artifacts: Path, save: Path | None) -> Path | None:
    """The folder to save pictures to; None to show them."""
    if save is not None or _has_display():
        return save
    log.info("no display: saving the pictures to %s", artifacts / "view")
    return artifacts / "view"


def _refuse_among_photos(target: Path | None, images: Path) -> None:
    """Raise ArtifactError for a folder where pictures would replace photos, or be taken for photos later."""
    photos = (images if images.is_dir() else images.parent).resolve()
    if target is not None and photos in (target.resolve(), *target.resolve().parents):
        raise ArtifactError(
            f"{target} is in the photo folder {images}, where pictures would be taken for photos; choose a different "
            f"{option('save')}"
        )


def _has_display() -> bool:
    """Whether matplotlib can open windows."""
    from matplotlib import pyplot

    # get_backend() resolves the automatic choice, which is Agg without a display
    return pyplot.get_backend().lower() not in ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")


def _produce(pictures: list[_Picture], folder: Path | None) -> list[Path]:
    """Save the pictures to a folder, or show them one by one."""
    saved, failed = [], []
    for picture in pictures if folder is None else track(pictures, "drawing", "picture"):
        try:
            if folder is None:
                _show(picture)
            else:
                saved.append(_save(picture, folder))
        except ImageError as error:
            failed.append(str(error))
    if folder is not None:
        log.info("saved %d of %s to %s", len(saved), counted(len(pictures), "picture"), folder)
    if failed:
        raise PartialFailureError(
            f"{len(failed)} of {counted(len(pictures), 'picture')} not drawn: {'; '.join(failed)}"
        )
    return saved


def _save(picture: _Picture, folder: Path) -> Path:
    from disk.viewing import canvas

    figure = canvas.new_figure()
    picture.draw(figure)
    # append the suffix instead of replacing one: a name may contain a dot
    return canvas.save(figure, folder / path_of(f"{_fitting(picture.name)}.jpg"))


def _show(picture: _Picture) -> None:
    """Open a window and wait until it is closed."""
    from matplotlib import pyplot

    figure = pyplot.figure(num=picture.name)
    try:
        picture.draw(figure)
        pyplot.show()
    finally:
        pyplot.close(figure)
