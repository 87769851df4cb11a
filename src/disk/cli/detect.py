"""`disk detect`: detecting features in a folder of images."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from disk.cli.app import AsJson, run, show_result
from disk.pipeline import detect as stage
from disk.pipeline.detect import DetectOptions


def detect(
    artifacts: Positional[Path],
    images: Positional[Path],
    options: DetectOptions = DetectOptions(),
    json: AsJson = False,
) -> None:
    """Detect keypoints and compute descriptors in all images of a folder.

    Writes keypoints.h5, descriptors.h5 and scores.h5. Finished, unchanged images are skipped: after an interruption the
    same command resumes.

    Args:
        artifacts: Folder for the results, created if missing.
        images: Folder of images, sub-folders included; an image's name is its path without extension.
        options: Options of detection.
    """
    show_result(lambda: stage.detect(artifacts, images, options), lambda _: None, json)


def main(argv: list[str]) -> int:
    run(detect, argv, "detect", "disk detect artifacts/ photos/ --n 2048 --max-size 1024")
    return 0
