"""`disk verify`: which matches agree with the geometry of two views."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from disk.cli.app import AsJson, print_json, run
from disk.pipeline import verify as stage
from disk.pipeline.verify import VerifyOptions


def verify(
    artifacts: Positional[Path],
    options: VerifyOptions = VerifyOptions(),
    json: AsJson = False,
) -> None:
    """Verify all matched pairs geometrically, into the COLMAP database and inliers.h5.

    Run `disk export` first. Pairs that are done are skipped: after an interruption the same command goes on.

    Args:
        artifacts: folder with matches.h5; gets inliers.h5, laid out in the same way. A model stands for its artifacts.
        options: how to verify.
    """
    summary = stage.verify(artifacts, options)
    if json:
        print_json(summary)


def main(argv: list[str]) -> int:
    run(verify, argv, "verify", "disk verify model/artifacts/")
    return 0
