"""`disk export`: exporting features and matches to other programs."""

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

    Reads focal lengths from EXIF as COLMAP does, or guesses 1.2 times the longer side; distortion starts at 0. COLMAP
    3.8 and later open the database. The mapper needs inliers: run `disk verify` or `colmap exhaustive_matcher` next.

    Args:
        artifacts: Folder with keypoints.h5, descriptors.h5 and matches.h5.
        images: Folder of the images the features were detected in.
        options: Options of the export.
    """
    stage.export(artifacts, images, options)


def main(argv: list[str]) -> int:
    run(export, argv, "export", "disk export model/artifacts/ photos/ --single-camera")
    return 0
