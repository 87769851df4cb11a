"""`disk match`: matches between the images of a folder of artifacts."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from disk.cli.app import run
from disk.pipeline import match as stage
from disk.pipeline.match import MatchOptions


def match(artifacts: Positional[Path], options: MatchOptions = MatchOptions()) -> None:
    """Match the features of pairs of images: mutual nearest neighbours, or LightGlue.

    Writes matches.h5. Pairs that are done are skipped: after an interruption the same command goes on.

    Args:
        artifacts: folder that `disk detect` wrote.
        options: how to match.
    """
    stage.match(artifacts, options)


def main(argv: list[str]) -> int:
    run(match, argv, "match", "disk match artifacts/ --rt 0.95 --pairs sequential --overlap 5")
    return 0
