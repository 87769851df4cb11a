"""`disk view`: showing the page of a model, or pictures of keypoints or matches."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from disk.cli.app import run
from disk.pipeline import view as stage
from disk.pipeline.view import ViewOptions

Kind = Literal["page", "keypoints", "matches"]
KINDS: tuple[Kind, ...] = ("page", "keypoints", "matches")


def view(
    artifacts: Positional[Path],
    images: Positional[Path | None] = None,
    what: Positional[Kind | None] = None,
    options: ViewOptions = ViewOptions(),
) -> None:
    """Show the page of a model, or draw keypoints (coloured by score) or matches (coloured by whether verified).

    For a model, writes its report.html and opens it: numbers, the model in 3D with its photos, which photos connect,
    which do not and why. Any COLMAP model works. For keypoints and matches, opens one window after the other;
    without a display, or with --save, writes a .jpg for each image or pair.

    Args:
        artifacts: Folder with keypoints.h5, and for matches matches.h5 and inliers.h5; or a model folder.
        images: Folder of the images; default: the one recorded by `disk reconstruct`.
        what: page, keypoints or matches; default: page for a model, matches for artifacts or with options.
        options: Which pictures to draw, and where to save them.
    """
    for kind in KINDS:
        if images == Path(kind) and not images.is_dir():  # the image folder was omitted
            images, what = None, kind
    stage.view(artifacts, images, what, options)


def main(argv: list[str]) -> int:
    run(view, argv, "view", ["disk view model/", "disk view artifacts/ photos/ matches --save pictures/ --limit 20"])
    return 0
