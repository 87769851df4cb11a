"""`disk weights`: list, fetch, convert and export checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from disk.cli.app import run_group
from disk.errors import CheckpointError
from disk.model import checkpoints


def list_weights() -> None:
    """List the weights known by name and whether they are here."""
    print("default    ships with the package")
    for name, (file, _) in checkpoints.RELEASED.items():
        path = checkpoints.cache_folder() / file
        print(f"{name:<10} {path if path.is_file() else f'not here; run: disk weights fetch {name}'}")


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
    _refuse_existing(target)
    checkpoints.save(model, target)


def export_onnx(source: Positional[str], target: Positional[Path]) -> None:
    """Export a network to ONNX: images (B, 3, H, W) in [0, 1] to heatmap and raw descriptors at every pixel.

    Args:
        source: a name (default, depth, epipolar) or a .pth or .safetensors file.
        target: the .onnx file to write; batch, height and width stay free, in multiples of 16.
    """
    from disk.model.onnx import export

    model = checkpoints.load(source, "cpu")
    _refuse_existing(target)
    export(model, target)


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise CheckpointError(f"{target} exists already; choose another name or delete it")


def main(argv: list[str]) -> int:
    commands: dict[str, tuple[Callable[..., None], str]] = {
        "list": (list_weights, "disk weights list"),
        "fetch": (fetch, "disk weights fetch depth"),
        "convert": (convert, "disk weights convert save-depth.pth depth.safetensors"),
        "export-onnx": (export_onnx, "disk weights export-onnx default disk.onnx"),
    }
    return run_group(commands, argv, "weights", "Checkpoints of the network.") or 0
