"""`disk weights`: listing, fetching, converting and exporting checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from disk.cache import cache_folder
from disk.cli.app import run_group
from disk.errors import CheckpointError, DiskError
from disk.model import checkpoints
from disk.model.onnx.options import ExportOptions


def list_weights() -> None:
    """List the weights available by name, and whether they are downloaded."""
    print("default    ships with the package")
    for name, (file, _) in checkpoints.RELEASED.items():
        path = cache_folder() / file
        print(f"{name:<10} {path if path.is_file() else f'downloaded on first use, or by: disk weights fetch {name}'}")


def fetch(name: Positional[Literal["depth", "epipolar"]], url: str = checkpoints.RELEASED_URL) -> None:
    """Download and verify the authors' weights (Apache-2.0, 4.4 MB); an interrupted download resumes.

    Args:
        name: Weights trained with the depth or the epipolar reward.
        url: Server folder with depth-save.pth and epipolar-save.pth.
    """
    print(checkpoints.fetch(name, url))


def convert(source: Positional[str], target: Positional[Path]) -> None:
    """Convert a checkpoint to .safetensors, or to a .pth that the original's detect.py can read.

    Args:
        source: default, depth, epipolar, or a .pth or .safetensors file, including checkpoints of `disk train`.
        target: File to write; its extension selects the format.
    """
    model = checkpoints.load(source, "cpu")
    _check_target(target)
    checkpoints.save(model, target)


def export_onnx(
    source: Positional[str],
    target: Positional[Path],
    graph: Literal["detect", "match", "dense"] = "detect",
    program: Annotated[Literal["onnxruntime", "opencv"], tyro.conf.arg(name="for")] = "onnxruntime",
    options: ExportOptions = ExportOptions(),
) -> None:
    """Export to ONNX: one graph from an image to keypoints, scores and unit descriptors (docs/onnx.md).

    Args:
        source: default, depth, epipolar, or a .pth or .safetensors file.
        target: .onnx file to write; batch and image sizes are dynamic.
        graph: detect: from an image to its features; match: from two images to their matches; dense: the network only,
            heatmap and raw descriptors at every pixel, image sizes in multiples of 16.
        program: opencv: the layout of cv2.DISK in OpenCV 5, with whole-pixel keypoints.
    """
    from disk.model.onnx import export

    if program == "opencv" and graph != "detect":
        raise DiskError(f"--for opencv: cv2.DISK detects; drop --graph {graph}")
    if options.ratio is not None and graph != "match":
        raise DiskError("--ratio is for --graph match")
    if graph == "dense" and options != ExportOptions():
        raise DiskError("--graph dense finds no keypoints: --n, --window and --no-subpixel have no effect; drop them")
    options.check()
    _check_target(target)
    model = checkpoints.load(source, "cpu")
    if graph == "dense":
        export.export_dense(model, target)
    elif graph == "match":
        export.export_pair(model, target, options)
    elif program == "opencv":
        export.export_for_opencv(model, target, options)
    else:
        export.export_detector(model, target, options)


def _check_target(target: Path) -> None:
    if target.exists():
        raise CheckpointError(f"{target} already exists; choose another name or delete it")
    if not target.absolute().parent.is_dir():
        raise CheckpointError(f"cannot write {target}: No such file or directory: {target.parent}")


COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "list": (list_weights, "disk weights list"),
    "fetch": (fetch, "disk weights fetch depth"),
    "convert": (convert, "disk weights convert save-depth.pth depth.safetensors"),
    "export-onnx": (export_onnx, "disk weights export-onnx default disk.onnx"),
}


def main(argv: list[str]) -> int:
    return run_group(COMMANDS, argv, "weights", "Manage checkpoints of the network.") or 0
