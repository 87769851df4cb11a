"""`disk undistort`: writing undistorted images and a pinhole model, for splatting."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from disk.cli.app import AsJson, run, show_result
from disk.pipeline import undistort as stage
from disk.pipeline.undistort import UndistortOptions
from disk.progress import counted


def undistort(
    model: Positional[Path],
    out: Positional[Path],
    options: UndistortOptions = UndistortOptions(),
    json: AsJson = False,
) -> None:
    """Write undistorted images and the model with pinhole cameras, the input of splatting code.

    Writes OUT/images and OUT/sparse/0, the layout read by gsplat, the original 3DGS code and nerfstudio; with
    --mask-dir also OUT/masks, where the mask of a.jpg is a.jpg.png. After an interruption the same command resumes.

    Args:
        model: Output folder of `disk reconstruct`, or another COLMAP model.
        out: Folder for the results, created if missing.
        options: Images and masks to read, and what else to write.
    """
    show_result(
        lambda: stage.undistort(model, out, options),
        lambda done: print(
            f"{counted(done.images, 'image')} of up to {done.width} x {done.height} pixels, "
            f"{counted(done.masks, 'mask')}: {out}"
        ),
        json,
    )


def main(argv: list[str]) -> int:
    run(undistort, argv, "undistort", "disk undistort model/ splat/ --transforms")
    return 0
