"""`disk train`: train the network."""

from __future__ import annotations

from pathlib import Path

import tyro

from disk.cli.app import run
from disk.training.loop import train
from disk.training.options import TrainOptions


def main(argv: list[str]) -> int:
    """Run the command."""
    run(_train, argv, "train", "disk train --synthesize photos/ --save-dir run/ --height 256 --width 256")
    return 0


def _train(data: tyro.conf.Positional[Path | None] = None, options: TrainOptions = TrainOptions()) -> None:
    """Train the network, on DATA (a folder with train/dataset.json and test/dataset.json), photographs, or both.

    Ctrl-C saves and ends it, and --resume goes on. Several GPUs or machines: torchrun ... -m disk train ...
    """
    print(f"weights: {train(data, options)}")
