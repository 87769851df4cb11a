"""`disk reconstruct`: reconstructing a folder of photos or a video as a sparse 3D model."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from disk.cli.app import AsJson, run, show_result
from disk.cli.model_table import show
from disk.pipeline import reconstruct as stage
from disk.pipeline.reconstruct import ReconstructOptions


def reconstruct(
    images: Positional[Path],
    out: Positional[Path],
    options: ReconstructOptions = ReconstructOptions(),
    json: AsJson = False,
) -> None:
    """Reconstruct a folder of photos or a video: detect, match, verify and map in one command.

    Writes OUT/sparse/0 (the largest COLMAP model), OUT/points.ply, OUT/summary.json and OUT/report.html (a page that
    shows the model); features and matches are in OUT/artifacts. Finished stages are skipped: after an interruption the
    same command resumes. If photos are added, changed or removed, the same command updates the model, which keeps its
    frame, scale and ids; --remap maps from scratch.
    For a video, first writes sharp frames to OUT/frames, as `disk frames`. With --rig, each folder in IMAGES is a
    camera of a rig.

    Args:
        images: Folder of photos, sub-folders included, or a video.
        out: Folder for the results, created if missing.
        options: Options of all stages.
    """
    show_result(lambda: stage.reconstruct(images, out, options), lambda result: show(result, out), json)


def main(argv: list[str]) -> int:
    examples = [
        "disk reconstruct photos/ model/ --single-camera",
        "disk reconstruct photos/ model/ --single-camera --remap",
        "disk reconstruct photos/ model/ --pairs spatial",
        "disk reconstruct walk.mp4 model/ --fps 3",
        "disk reconstruct cameras/ model/ --rig",
    ]
    run(reconstruct, argv, "reconstruct", examples)
    return 0
