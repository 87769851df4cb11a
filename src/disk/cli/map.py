"""`disk map`: mapping verified pairs into a sparse 3D model."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from disk.cli.app import AsJson, print_json, run
from disk.cli.model_table import show
from disk.pipeline import map as stage
from disk.pipeline.map import MapOptions
from disk.storage.artifacts import beside


def map_(
    artifacts: Positional[Path],
    images: Positional[Path],
    options: MapOptions = MapOptions(),
    json: AsJson = False,
) -> None:
    """Map verified pairs into a COLMAP model: the last stage of `disk reconstruct`.

    Writes sparse/0 (the largest model), points.ply and summary.json to the parent folder of ARTIFACTS, or --output. Run
    `disk verify` first. Keeps a model that is current; adds new photos to an existing model, which keeps its frame,
    scale and ids. After adding photos, first run detect, match, export with --overwrite, and verify again.

    Args:
        artifacts: Folder with inliers.h5, or a model folder.
        images: Folder of the images, for the colours of points.
        options: Options of mapping.
    """
    result = stage.map_models(artifacts, images, options)
    if json:
        print_json(result)
    else:
        show(result, options.output or beside(artifacts))


def main(argv: list[str]) -> int:
    examples = [
        "disk map model/artifacts/ photos/",
        "disk map model/artifacts/ photos/ --remap",
        "disk map model/ cameras/ --rig",
    ]
    run(map_, argv, "map", examples)
    return 0
