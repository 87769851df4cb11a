"""`disk export`: features and matches for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from disk.cli.app import run
from disk.pipeline import export as stage
from disk.pipeline.export import ExportOptions


def export(
    artifacts: Annotated[Positional[Path], arg(metavar="ARTIFACTS")],
    images: Annotated[Positional[Path], arg(metavar="IMAGES")],
    options: ExportOptions = ExportOptions(),
) -> None:
    """Write features and matches as a COLMAP database, or in the layout of the IMW benchmark or hloc.

    A camera's focal length is read from EXIF as COLMAP does, else guessed as 1.2 times the longer side.
    `disk verify` then finds the inliers; COLMAP's mapper needs them.

    Args:
        artifacts: folder with keypoints.h5, descriptors.h5 and matches.h5.
        images: folder of the images they were found in.
        options: what to write.
    """
    stage.export(artifacts, images, options)


def main(argv: list[str]) -> int:
    run(export, argv, "export", "disk export artifacts/ photos/ --database-path database.db --single-camera")
    return 0
