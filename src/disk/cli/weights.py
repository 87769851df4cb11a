"""`disk weights`: list, fetch, convert and export checkpoints."""

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
    """List the weights known by name and whether they are here."""
    print("default    ships with the package")
    for name, (file, _) in checkpoints.RELEASED.items():
        path = cache_folder() / file
        print(f"{name:<10} {path if path.is_file() else f'fetched on first use, or by: disk weights fetch {name}'}")


def fetch(name: Positional[Literal["depth", "epipolar"]], url: str = checkpoints.RELEASED_URL) -> None:
    """Download the authors' released weights (Apache-2.0, 4.4 MB), verified; goes on where it stopped.

    Args:
        name: trained with the depth or with the epipolar reward.
        url: the folder on a server that holds depth-save.pth and epipolar-save.pth.
    """
    print(checkpoints.fetch(name, url))


def convert(source: Positional[str], target: Positional[Path]) -> None:
    """Convert a checkpoint to .safetensors, or to a .pth as the original's detect.py reads it.

    Args:
        source: a name (default, depth, epipolar) or a .pth or .safetensors file, also of our training.
        target: the file to write; its ending chooses the format.
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
        source: a name (default, depth, epipolar) or a .pth or .safetensors file.
        target: the .onnx file to write; numbers and sizes of images stay free.
        graph: detect: an image to its features; match: two images to their matches; dense: the network alone,
            heatmap and raw descriptors at every pixel, sizes in multiples of 16.
        program: opencv: the layout that cv2.DISK of OpenCV 5 reads; whole pixels.
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
        raise CheckpointError(f"{target} exists already; choose another name or delete it")
    if not target.absolute().parent.is_dir():
        raise CheckpointError(f"cannot write {target}: No such file or directory: {target.parent}")


COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "list": (list_weights, "disk weights list"),
    "fetch": (fetch, "disk weights fetch depth"),
    "convert": (convert, "disk weights convert save-depth.pth depth.safetensors"),
    "export-onnx": (export_onnx, "disk weights export-onnx default disk.onnx"),
}


def main(argv: list[str]) -> int:
    return run_group(COMMANDS, argv, "weights", "Checkpoints of the network.") or 0
