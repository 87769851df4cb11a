"""What came of photos, to be looked at: the page of a model, and pictures of keypoints or matches."""

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
from disk.pipeline.report import write_model_page
from disk.pipeline.summary import read_summary
from disk.progress import log, track
from disk.storage.artifacts import (
    INLIERS,
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
_LONGEST = 200  # bytes of a file's name; file systems take 255, of which suffixes need some


@dataclass(frozen=True, kw_only=True)
class ViewOptions(Options):
    """Which pictures to draw and where they go."""

    save: Path | None = None
    """Folder for the pictures (.jpg), which else open in windows or, without a display, go to ARTIFACTS/view; of page,
    for report.html, which else is written into the model's folder and opened."""
    image_extension: str | None = None
    """Only images with this extension, any case; default: every supported type."""
    pairs: tuple[str, ...] = ()
    """Only these: names `A B [C D ...]` two by two, with or without extension, or one file of `name0 name1` lines."""
    limit: int | None = None
    """At most so many pictures: of matches the pairs with most of them, of keypoints the first by name."""


@dataclass(frozen=True)
class _Picture:
    """A picture to come: its name as a path without suffix, and what draws it."""

    name: str
    draw: Callable[[Figure], None]


def view(
    artifacts: AnyPath,
    images: AnyPath | None = None,
    what: What | None = None,
    options: ViewOptions = ViewOptions(),
) -> list[Path]:
    """Show a model on a page, draw keypoints coloured by score, or matches coloured by verified or not.

    artifacts: their folder, or a model. images: the folder of photos; None: the one that the model was made of. what:
    None means the page for a model, and matches for artifacts or where options ask for pictures. Returns the files
    saved. Raises PartialFailureError when some images are missing or damaged and the rest was done.
    """
    what = _usual(Path(artifacts), options) if what is None else as_meant("what", what, What)
    if what == "page":
        return [_show_page(Path(artifacts), images, options)]
    artifacts = artifacts_folder(artifacts)
    images = _photos_of(artifacts) if images is None else Path(images)
    check_at_least(options, limit=1)
    target = _target(artifacts, options.save)
    files = list_images(images, options.image_extension)
    _refuse_among_photos(target, images)
    paths = {file.name: file.path for file in files}
    with read_features(artifacts) as features:
        if not set(features.names) & set(paths):
            raise ImageError(f"{images} holds none of the {len(features)} images of {artifacts}")
        changed = changed_photos(artifacts, [file for file in files if file.name in features.names])
        if changed:
            log.warning("%d photos have changed since their features were found: %s", len(changed), named(changed))
        pairs = _chosen_pairs(options.pairs, features.names)
        if what == "keypoints":
            # one image in place of a folder is what is wanted of all that have features
            wanted = [name for name in features.names if name in paths] if images.is_file() else features.names
            names = wanted if pairs is None else sorted({name for pair in pairs for name in pair})
            pictures = [_Picture(name, draw_keypoints_of(features, paths, name)) for name in names[: options.limit]]
            return _produce(pictures, target)
        with read_matches(artifacts) as matches:
            chosen = _strongest(matches, pairs, options.limit)
            inliers = read_matches(artifacts, INLIERS) if (artifacts / INLIERS).is_file() else None
            if inliers is None:
                log.info("no %s in %s: matches are not verified yet; `disk verify` does", INLIERS, artifacts)
            pictures = [
                _Picture(picture_name(pair), draw_matches_of(features, matches, inliers, paths, pair))
                for pair in chosen
            ]
            return _produce(pictures, target)


def _usual(folder: Path, options: ViewOptions) -> What:
    """What is shown of a folder when nobody says."""
    places = (folder, folder / "sparse", *folder.glob("sparse/*"))
    is_model = any((place / f"images.{kind}").is_file() for place in places for kind in ("bin", "txt"))
    return "page" if is_model and options == ViewOptions() else "matches"


def _show_page(model: Path, images: AnyPath | None, options: ViewOptions) -> Path:
    """Write the page of a model; open it where there is a display, unless it is to be saved."""
    if options.pairs or options.limit is not None or options.image_extension is not None:
        raise DiskError(f"the page of a model is of all its photos; {option('save')} is the one option that it takes")
    page = write_model_page(model, images, options.save)
    log.info("wrote %s", page)
    if options.save is None and _has_browser():
        webbrowser.open(page.resolve().as_uri())
    return page


def _has_browser() -> bool:
    """Whether a browser would open in a window: the ones of a terminal keep it."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _photos_of(artifacts: Path) -> Path:
    """The folder of photos that is noted in the summary of the model that the artifacts belong to."""
    try:
        photos = Path(read_summary(beside(artifacts)).photos)
    except ColmapError:
        photos = Path()
    if photos == Path() or not photos.is_dir():
        raise ImageError(f"which photos are those of {artifacts}? Give their folder: disk view {artifacts} IMAGES")
    return photos


def picture_name(pair: tuple[str, str]) -> str:
    """The name of a pair's picture, all in one folder: a/1 and b/2 make `a%2F1--b%2F2`; no two pairs share one."""
    return "--".join(map(_escaped, pair))


_REFUSED = re.compile(r'[%/\\:*?"<>|]')  # '%' itself, and what a file's name cannot hold on Windows


def _escaped(name: str) -> str:
    name = _REFUSED.sub(lambda found: f"%{ord(found[0]):02X}", name)
    # two hyphens are between the two names of a pair, and nowhere else
    return name.replace("-", "%2D") if "--" in f"-{name}-" else name


def _fitting(name: str) -> str:
    """A path whose last part is no longer than a file system takes, told apart by a hash where it is cut."""
    folder, _, last = name.rpartition("/")
    if len(last.encode()) > _LONGEST:
        digest = hashlib.sha256(last.encode()).hexdigest()[:12]
        last = f"{last.encode()[: _LONGEST - 13].decode(errors='ignore')}-{digest}"
    return f"{folder}/{last}" if folder else last


def _chosen_pairs(wanted: tuple[str, ...], names: list[str]) -> list[tuple[str, str]] | None:
    """The pairs asked for, each in the order of the names; None for all."""
    if not wanted:
        return None
    known = set(names)
    if len(wanted) == 1 and (Path(wanted[0]).is_file() or find_name(wanted[0], known) is None):
        return from_file(Path(wanted[0]), names)
    if len(wanted) % 2:
        raise PairsError(f"{option('pairs')} takes names two by two, or one file; got {len(wanted)} names")
    found = {word: find_name(word, known) for word in wanted}
    unknown = [f"{word}{did_you_mean(word, known)}" for word, name in found.items() if name is None]
    if unknown:
        raise PairsError(f"no features of {', '.join(unknown)}; names are paths below the folder of images")
    chosen = [found[word] or "" for word in wanted]
    pairs = {(min(a, b), max(a, b)) for a, b in zip(chosen[::2], chosen[1::2], strict=True)}
    alone = [a for a, b in pairs if a == b]
    if alone:
        raise PairsError(f"{option('pairs')}: {alone[0]!r} is paired with itself")
    return sorted(pairs)


def _strongest(matches: MatchStore, pairs: list[tuple[str, str]] | None, limit: int | None) -> list[tuple[str, str]]:
    """The pairs to draw; if there are more than the limit, those with most matches, in their order."""
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
    """Where pictures are saved; None to show them."""
    if save is not None or _has_display():
        return save
    log.info("no display here: saving the pictures to %s", artifacts / "view")
    return artifacts / "view"


def _refuse_among_photos(target: Path | None, images: Path) -> None:
    """Raise ArtifactError for a place where pictures would replace photos, or be taken for photos later."""
    photos = (images if images.is_dir() else images.parent).resolve()
    if target is not None and photos in (target.resolve(), *target.resolve().parents):
        raise ArtifactError(
            f"{target} is in the folder of photos {images}, where pictures would be taken for photos; choose another "
            f"{option('save')}"
        )


def _has_display() -> bool:
    """Whether matplotlib finds a way to open windows."""
    from matplotlib import pyplot

    # asking resolves the automatic choice: Agg, which cannot show, when there is no display
    return pyplot.get_backend().lower() not in ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")


def _produce(pictures: list[_Picture], folder: Path | None) -> list[Path]:
    """Save the pictures into a folder, or show them one after the other."""
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
        log.info("saved %d of %d pictures to %s", len(saved), len(pictures), folder)
    if failed:
        raise PartialFailureError(f"{len(failed)} of {len(pictures)} not drawn: {'; '.join(failed)}")
    return saved


def _save(picture: _Picture, folder: Path) -> Path:
    from disk.viewing import canvas

    figure = canvas.new_figure()
    picture.draw(figure)
    # a name may hold a dot, so the suffix is appended, not replaced
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
