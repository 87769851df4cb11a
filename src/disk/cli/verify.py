"""`disk verify`: geometric verification of matches."""

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
    """Verify all matched pairs geometrically; write the COLMAP database and inliers.h5.

    Run `disk export` first. Finished pairs are skipped: after an interruption the same command resumes.

    Args:
        artifacts: Folder with matches.h5, or a model folder; inliers.h5 is written beside matches.h5.
        options: Options of verification.
    """
    summary = stage.verify(artifacts, options)
    if json:
        print_json(summary)


def main(argv: list[str]) -> int:
    run(verify, argv, "verify", "disk verify model/artifacts/")
    return 0
