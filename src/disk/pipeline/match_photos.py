"""Matching two photos without an artifacts folder: detect, match, verify, draw."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from disk.devices import choose_device
from disk.errors import DiskError, ImageError
from disk.features import Features, Matches
from disk.geometry.chance import chance_of_inlier, log10_false_alarms
from disk.geometry.robust import estimate_fundamental
from disk.images.listing import EXTENSIONS
from disk.images.orientation import upright_points
from disk.images.reading import Upright, read_upright
from disk.matching.matcher import make_matcher
from disk.model.checkpoints import load
from disk.model.options import DetectionOptions
from disk.options import AnyPath, Options, option
from disk.pipeline.match import read_lightglue
from disk.pipeline.match_options import MatchOptions, check_match, ratio_of
from disk.pipeline.verify import VerifyOptions
from disk.progress import log
from disk.shapes import Bool


@dataclass(frozen=True, kw_only=True)
class PhotoOptions(Options):
    """Options for two photos, beside those of matching."""

    save: Path | None = None
    """File for a picture of the matches (.jpg, .png, .svg or .pdf), or an existing folder."""
    n: int | Literal["auto"] | None = DetectionOptions.n
    """Keypoint budget of each photo, best scores first; auto: 4096; None: all."""
    max_size: int = DetectionOptions.max_size
    """Shrink photos whose long side exceeds this many pixels; 0: never."""
    model_path: str = "default"
    """Weights: default, depth, epipolar, or a .pth or .safetensors file."""
    max_error: float | int = VerifyOptions.max_error
    """Maximum distance of an inlier from the epipolar geometry, in pixels."""


@dataclass(frozen=True)
class PhotoMatch:
    """The matches of two photos.

    keypoints: number in each photo
    inliers: whether each match agrees with the epipolar geometry
    verified: whether the inliers pass the a-contrario test (NFA < 1)
    picture: the file that was drawn; None without one
    """

    keypoints: tuple[int, int]
    matches: Matches
    inliers: Bool[np.ndarray, " k"]
    verified: bool
    picture: Path | None


def match_photos(
    first: AnyPath,
    second: AnyPath,
    matching: MatchOptions = MatchOptions(),
    options: PhotoOptions = PhotoOptions(),
) -> PhotoMatch:
    """Match two photos; points are in pixels of the photos as stored.

    first, second: paths, with or without extension
    matching: of these only rt, matcher, matcher_weights and device are used

    Raises ImageError for a photo that is missing or cannot be read, and the errors of detection and matching.
    """
    paths = find_photo(first), find_photo(second)
    check_match(matching)
    detection = DetectionOptions(n=options.n, max_size=options.max_size)
    detection.check()
    if not options.max_error > 0:
        raise DiskError(f"{option('max_error', options.max_error)}: must be more than 0")
    names = (paths[0].name, paths[1].name)
    picture = None if options.save is None else _picture_file(options.save, names)
    if picture is not None:
        from disk.viewing.canvas import refuse_other_picture

        refuse_other_picture(picture)
    weights = read_lightglue(matching.matcher_weights) if matching.matcher == "lightglue" else None
    model = load(options.model_path, matching.device)
    f0, f1 = model.detect(paths, detection)
    photos = [read_upright(path) for path in paths]
    upright = [_upright(features, photo) for features, photo in zip((f0, f1), photos, strict=True)]
    sizes = [(photo.pixels.shape[1], photo.pixels.shape[0]) for photo in photos]
    matcher = make_matcher(matching.matcher, choose_device(matching.device), ratio_of(matching), weights=weights)
    matches = matcher([(upright[0], upright[1], sizes[0], sizes[1])])[0].between(f0.cpu(), f1.cpu())
    inliers = estimate_fundamental(*_points(matches), threshold=options.max_error)
    chance = max(chance_of_inlier(*size, options.max_error) for size in sizes)
    verified = log10_false_alarms(len(matches), int(inliers.sum()), chance) < 0
    if picture is not None:
        shown = matches.between(upright[0].cpu(), upright[1].cpu())
        _draw(picture, (photos[0].pixels, photos[1].pixels), shown, inliers & verified, names)
    found = PhotoMatch((len(f0), len(f1)), matches, inliers, verified, picture)
    _report(found, paths)
    return found


def find_photo(path: AnyPath) -> Path:
    """Find a photo named with or without extension. Raises ImageError if there is none, or more than one."""
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        raise ImageError(f"{path} is a folder; give two photos, or one artifacts folder")
    folder = path.parent
    there = sorted(
        file
        for file in (folder.iterdir() if folder.is_dir() else ())
        if file.is_file() and file.suffix.lower() in EXTENSIONS and file.stem == path.name
    )
    if len(there) > 1:
        raise ImageError(f"{path} is ambiguous: {' or '.join(file.name for file in there)}; add the extension")
    if not there:
        raise ImageError(f"no photo {path}, with or without extension")
    return there[0]


def _upright(features: Features, photo: Upright) -> Features:
    """The features in pixels of the upright photo; LightGlue is trained on upright photos."""
    points = upright_points(features.keypoints.cpu().numpy(), photo.orientation, photo.stored_size)
    return replace(features, keypoints=torch.from_numpy(points).to(features.keypoints))


def _points(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    arrays = matches.numpy()
    return arrays["points0"], arrays["points1"]


def _picture_file(save: Path, names: tuple[str, str]) -> Path:
    if save.is_dir():
        return save / f"{names[0]}--{names[1]}.jpg"
    return save if save.suffix else save.with_name(f"{save.name}.jpg")


def _draw(
    file: Path,
    photos: tuple[np.ndarray, np.ndarray],
    matches: Matches,
    good: Bool[np.ndarray, " k"],
    names: tuple[str, str],
) -> None:
    from disk.viewing import canvas
    from disk.viewing import matches as drawing

    figure = canvas.new_figure()
    groups = [drawing.Group("not verified", drawing.BAD, ~good), drawing.Group("verified", drawing.GOOD, good)]
    drawing.draw_matches(figure, photos, _points(matches), groups, names)
    canvas.save(figure, file)


def _report(found: PhotoMatch, paths: tuple[Path, Path]) -> None:
    count, agree = len(found.matches), int(found.inliers.sum())
    share = f" ({agree / count:.0%})" if count else ""
    verdict = "" if found.verified else ", no more than expected by chance: no overlap was found"
    log.info(
        "%s: %d keypoints, %s: %d; %d matches, of which %d agree with the epipolar geometry%s%s%s",
        paths[0], found.keypoints[0], paths[1], found.keypoints[1], count, agree, share, verdict,
        f"; drawn in {found.picture}" if found.picture else "",
    )  # fmt: skip
