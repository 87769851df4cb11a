"""`disk match`: matching the images of an artifacts folder, or two photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from disk.cli.app import AsJson, print_json, run
from disk.errors import DiskError
from disk.options import option
from disk.pipeline import match as stage
from disk.pipeline.match_options import MatchOptions
from disk.pipeline.match_photos import PhotoOptions, match_photos

_OF_BOTH = ("rt", "matcher", "matcher_weights", "device")  # options of a folder that also apply to two photos


def match(
    paths: Annotated[Positional[tuple[Path, ...]], arg(metavar="ARTIFACTS | PHOTO PHOTO")],
    options: MatchOptions = MatchOptions(),
    two_photos: PhotoOptions = PhotoOptions(),
    json: AsJson = False,
) -> None:
    """Match the features of pairs of images: mutual nearest neighbours, or LightGlue.

    For an artifacts folder, writes matches.h5 there. Finished pairs are skipped: after an interruption the same command
    resumes. For two photos, detects, matches and verifies them, prints the counts, and draws the matches with --save.

    Args:
        paths: Folder written by `disk detect`, or two photos, with or without extension.
        options: Options of matching.
        two_photos: Options for two photos.
    """
    if len(paths) == 1:
        _refuse(two_photos, PhotoOptions(), (), "for two photos: disk match a.jpg b.jpg")
        summary: Any = stage.match(paths[0], options)
    elif len(paths) == 2:
        _refuse(options, MatchOptions(), _OF_BOTH, "for an artifacts folder: disk match artifacts/")
        found = match_photos(paths[0], paths[1], options, two_photos)
        summary = {
            "keypoints": found.keypoints,
            "matches": len(found.matches),
            "inliers": int(found.inliers.sum()),
            "verified": bool(found.verified),
            "picture": str(found.picture) if found.picture else None,
        }
    else:
        raise DiskError(f"disk match takes an artifacts folder or two photos, not {len(paths)} paths")
    if json:
        print_json(summary)


def _refuse(given: Any, defaults: Any, but: tuple[str, ...], what_for: str) -> None:
    """Raise DiskError for an option that would have no effect."""
    for name, default in vars(defaults).items():
        if name not in but and getattr(given, name) != default:
            raise DiskError(f"{option(name)} is {what_for}; leave it out")


def main(argv: list[str]) -> int:
    examples = [
        "disk match artifacts/ --pairs sequential --overlap 5",
        "disk match a.jpg b.jpg --save matches.jpg",
    ]
    run(match, argv, "match", examples)
    return 0
