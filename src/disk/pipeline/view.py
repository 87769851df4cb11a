"""Pictures of what was detected and matched: one for each image or pair, saved or shown in windows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from disk.errors import ArtifactError, ColmapError, ImageError, PairsError, PartialFailureError
from disk.images.listing import list_images, named, path_of
from disk.images.orientation import upright_points
from disk.images.reading import Upright, read_upright
from disk.options import AnyPath, Options, as_meant, check_at_least, option
from disk.pairs.choose import from_file
from disk.pipeline.follow import changed_photos
from disk.pipeline.map import read_summary
from disk.progress import log, track
from disk.storage.artifacts import (
    INLIERS,
    FeatureStore,
    MatchStore,
    artifacts_folder,
    beside,
    read_features,
    read_matches,
)
from disk.storage.names import did_you_mean, find_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

What = Literal["keypoints", "matches"]
_LONGEST = 200  # bytes of a file's name; file systems take 255, of which suffixes need some


@dataclass(frozen=True, kw_only=True)
class ViewOptions(Options):
    """Which pictures to draw and where they go."""

    save: Path | None = None
    """Folder for the pictures (.jpg). Without it they open in windows; without a display, in ARTIFACTS/view."""
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
    what: What = "matches",
    options: ViewOptions = ViewOptions(),
) -> list[Path]:
    """Draw keypoints coloured by score, or matches coloured by verified or not. Returns the files saved.

    images: the folder of photos; None: the one that the model lying beside the artifacts was made of. Raises
    PartialFailureError when some images are missing or damaged and the rest was done.
    """
    what = as_meant("what", what, What)
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
            pictures = [_Picture(name, _keypoints_of(features, paths, name)) for name in names[: options.limit]]
            return _produce(pictures, target)
        with read_matches(artifacts) as matches:
            chosen = _strongest(matches, pairs, options.limit)
            inliers = read_matches(artifacts, INLIERS) if (artifacts / INLIERS).is_file() else None
            if inliers is None:
                log.info("no %s in %s: matches are not verified yet; `disk verify` does", INLIERS, artifacts)
            pictures = [
                _Picture(picture_name(pair), _matches_of(features, matches, inliers, paths, pair)) for pair in chosen
            ]
            return _produce(pictures, target)


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


def _keypoints_of(features: FeatureStore, paths: dict[str, Path], name: str) -> Callable[[Figure], None]:
    def draw(figure: Figure) -> None:
        from disk.viewing.keypoints import draw_keypoints

        image = _read(paths, name)
        draw_keypoints(figure, image.pixels, _shown(features, image, name), features.scores(name), name)

    return draw


def _matches_of(
    features: FeatureStore,
    matches: MatchStore,
    inliers: MatchStore | None,
    paths: dict[str, Path],
    pair: tuple[str, str],
) -> Callable[[Figure], None]:
    def draw(figure: Figure) -> None:
        from disk.viewing import matches as drawing

        images = (_read(paths, pair[0]), _read(paths, pair[1]))
        keypoints = [_shown(features, image, name) for image, name in zip(images, pair, strict=True)]
        found = matches[pair]
        if any((row >= len(points)).any() for row, points in zip(found, keypoints, strict=True)):
            raise ArtifactError(f"the matches of {' and '.join(pair)} are of other features; run `disk match` again")
        everything = np.ones(found.shape[1], bool)
        if inliers is None:
            groups = [drawing.Group("matches, not verified yet", drawing.NEUTRAL, everything)]
        else:
            good = drawing.verified(found, inliers[pair]) if pair in inliers else ~everything
            groups = [
                drawing.Group("not verified", drawing.BAD, ~good),
                drawing.Group("verified", drawing.GOOD, good),
            ]
        ends = (keypoints[0][found[0]], keypoints[1][found[1]])
        drawing.draw_matches(figure, (images[0].pixels, images[1].pixels), ends, groups, pair)

    return draw


def _read(paths: dict[str, Path], name: str) -> Upright:
    if name not in paths:
        raise ImageError(f"{name} is not in the image folder")
    return read_upright(paths[name])


def _shown(features: FeatureStore, image: Upright, name: str) -> np.ndarray:
    """Keypoints in pixels of the upright image, which is what people want to see."""
    return upright_points(features.keypoints(name), image.orientation, image.stored_size)


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
