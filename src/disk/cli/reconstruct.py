"""`disk reconstruct`: from a folder of photos to a sparse 3D model."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from disk.cli.app import AsJson, print_json, run
from disk.cli.model_table import show
from disk.errors import PartialFailureError
from disk.pipeline import reconstruct as stage
from disk.pipeline.reconstruct import ReconstructOptions


def reconstruct(
    images: Positional[Path],
    out: Positional[Path],
    options: ReconstructOptions = ReconstructOptions(),
    json: AsJson = False,
) -> None:
    """Reconstruct a folder of photos: detect, match, verify and map in one command.

    Writes OUT/sparse/0 (a COLMAP model, the largest of them), OUT/points.ply and OUT/summary.json; features and
    matches are in OUT/artifacts. Stages that are done are skipped: after an interruption the same command goes on.
    After photos were added, changed or removed, the same command brings the model up to date.

    Args:
        images: folder of photos, sub-folders included.
        out: folder for the results, created when missing.
        options: of all stages.
    """
    partial: PartialFailureError | None = None
    try:
        stage.reconstruct(images, out, options)
    except PartialFailureError as error:
        partial = error  # the rest was done
    result = stage.read_summary(out)
    if json:
        print_json(result)
    else:
        show(result, out)
    if partial:
        raise partial


def main(argv: list[str]) -> int:
    run(
        reconstruct,
        argv,
        "reconstruct",
        "disk reconstruct photos/ model/ --single-camera   or, by GPS, disk reconstruct photos/ model/ --pairs spatial",
    )
    return 0
