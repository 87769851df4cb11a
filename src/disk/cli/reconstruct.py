"""`disk reconstruct`: from a folder of photos or a video to a sparse 3D model."""

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
    """Reconstruct a folder of photos or a video: detect, match, verify and map in one command.

    Writes OUT/sparse/0 (a COLMAP model, the largest of them), OUT/points.ply, OUT/summary.json and OUT/report.html, a
    page to look at; features and matches are in OUT/artifacts. Stages that are done are skipped: after an interruption
    the same command resumes. After photos were added, changed or removed, the same command brings the model up to date:
    new photos join it, and it keeps its frame, its scale and its ids; --remap maps anew.
    Of a video, OUT/frames gets sharp frames first, as by `disk frames`; with --rig, each folder in IMAGES is a camera
    of a rig.

    Args:
        images: folder of photos, sub-folders included, or a video.
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
    examples = [
        "disk reconstruct photos/ model/ --single-camera          (the same when there are more photos)",
        "disk reconstruct photos/ model/ --single-camera --remap  (or all anew)",
        "disk reconstruct photos/ model/ --pairs spatial",
        "disk reconstruct walk.mp4 model/ --fps 3",
        "disk reconstruct cameras/ model/ --rig",
    ]
    run(reconstruct, argv, "reconstruct", "\n          ".join(examples))
    return 0
