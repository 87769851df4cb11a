"""`disk detect`: features of every image of a folder."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from disk.cli.app import AsJson, print_json, run
from disk.pipeline import detect as stage
from disk.pipeline.detect import DetectOptions


def detect(
    artifacts: Positional[Path],
    images: Positional[Path],
    options: DetectOptions = DetectOptions(),
    json: AsJson = False,
) -> None:
    """Find keypoints and descriptors in every image below a folder.

    Writes keypoints.h5, descriptors.h5 and scores.h5. Images that are done and have not changed are skipped, so the
    same command resumes after an interruption.

    Args:
        artifacts: folder for the results, created when missing.
        images: folder of images, sub-folders included; an image's name is its path without extension.
        options: how to detect.
    """
    summary = stage.detect(artifacts, images, options)
    if json:
        print_json(summary)


def main(argv: list[str]) -> int:
    run(detect, argv, "detect", "disk detect artifacts/ photos/ --n 2048 --max-size 1024")
    return 0
