"""`disk triangulate`: triangulating points for known poses."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from disk.cli.app import AsJson, run, show_result
from disk.cli.model_table import show
from disk.pipeline import triangulate as stage
from disk.pipeline.triangulate import TriangulateOptions


def triangulate(
    model: Positional[Path],
    images: Positional[Path],
    out: Positional[Path],
    options: TriangulateOptions = TriangulateOptions(),
    json: AsJson = False,
) -> None:
    """Triangulate points for known, fixed poses and cameras.

    Writes OUT/sparse/0, OUT/points.ply and OUT/summary.json, as `disk reconstruct`, and OUT/agreement.json: how well
    the matches agree with the poses. Finished stages are skipped: after an interruption the same command resumes.

    Args:
        model: COLMAP model (points3D may be empty), or transforms.json of nerfstudio or instant-ngp.
        images: Folder of the images.
        out: Folder for the results, created if missing.
        options: Options of detection and matching.
    """
    show_result(lambda: stage.triangulate(model, images, out, options), lambda result: show(result.model, out), json)


def main(argv: list[str]) -> int:
    run(triangulate, argv, "triangulate", "disk triangulate transforms.json images/ model/")
    return 0
