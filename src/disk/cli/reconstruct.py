"""`disk reconstruct`: from a folder of photos to a sparse 3D model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from disk.cli.app import run
from disk.errors import PartialFailureError
from disk.pipeline import reconstruct as stage
from disk.pipeline.reconstruct import Reconstruction, ReconstructOptions


def reconstruct(
    images: Annotated[Positional[Path], arg(metavar="IMAGES")],
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    options: ReconstructOptions = ReconstructOptions(),
) -> None:
    """Reconstruct a folder of photos: detect, match, verify and map in one command.

    Writes OUT/sparse/0 (a COLMAP model, the largest of them), OUT/points.ply and OUT/summary.json; features and
    matches are in OUT/artifacts. Stages that are done are skipped: after an interruption the same command goes on.

    Args:
        images: folder of photos, sub-folders included.
        out: folder for the results, created when missing.
        options: of all stages.
    """
    try:
        stage.reconstruct(images, out, options)
    except PartialFailureError:
        _show(stage.read_summary(out), out)
        raise
    _show(stage.read_summary(out), out)


def _show(result: Reconstruction, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "images", "points", "track length", "reprojection error (px)")
    for number, model in enumerate(result.models):
        table.add_row(
            f"sparse/{number}",
            f"{len(model['images'])} of {result.images}",
            f"{model['points']:,}",
            f"{model['track_length']:.2f}",
            f"{model['reprojection_error']:.3f}",
        )
    console = Console(soft_wrap=True)
    console.print(table)
    times = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items())
    console.print(f"made in {sum(result.seconds.values()):.1f} s: {times}", highlight=False)
    if result.unconnected:
        console.print(
            f"images that do not connect to sparse/0, {len(result.unconnected)}: {', '.join(result.unconnected)}",
            highlight=False,
            markup=False,
        )
    console.print(f"points to look at: {out / 'points.ply'}", highlight=False, markup=False)


def main(argv: list[str]) -> int:
    run(reconstruct, argv, "reconstruct", "disk reconstruct photos/ model/ --single-camera")
    return 0
