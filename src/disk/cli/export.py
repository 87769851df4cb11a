"""`disk export`: features and matches for other programs."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from disk.cli.app import run
from disk.pipeline import export as stage
from disk.pipeline.export import ExportOptions


def export(
    artifacts: Positional[Path],
    images: Positional[Path],
    options: ExportOptions = ExportOptions(),
) -> None:
    """Write features and matches as a COLMAP database, or in the layout of the IMW benchmark or hloc.

    A camera's focal length is read from EXIF as COLMAP does, else guessed as 1.2 times the longer side; its distortion
    starts at 0. Every COLMAP from 3.8 on opens the database. `disk verify` then finds the inliers, or
    `colmap exhaustive_matcher`; the mapper needs them.

    Args:
        artifacts: folder with keypoints.h5, descriptors.h5 and matches.h5.
        images: folder of the images they were found in.
        options: what to write.
    """
    stage.export(artifacts, images, options)


def main(argv: list[str]) -> int:
    run(export, argv, "export", "disk export model/artifacts/ photos/ --single-camera")
    return 0
