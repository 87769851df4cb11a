"""`disk train`: training the network."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import tyro

from disk.cli.app import run
from disk.training.loop import train
from disk.training.options import TrainOptions
from disk.training.state import saved_options


def main(argv: list[str]) -> int:
    """Run the command."""
    data, options = run(
        _arguments,
        argv,
        "train",
        [
            "disk train --synthesize photos/ --save-dir run/",
            "disk train data/ --save-dir run/",
            "disk train --save-dir run/ --resume",
        ],
        switches_both_ways=True,  # so that a resumed training can switch options off
    )
    last = options.save_dir / "last.pth"
    if options.resume and last.exists():
        former_data, former = saved_options(last)
        of_this_call = {"save_dir": options.save_dir, "resume": True, "time_limit": options.time_limit}
        given = {name: getattr(options, name) for name in _given(argv)}
        data, options = data or former_data, replace(former, **{**given, **of_this_call})
    print(f"weights: {train(data, options)}")
    return 0


def _arguments(
    data: tyro.conf.Positional[Path | None] = None, options: TrainOptions = TrainOptions()
) -> tuple[Path | None, TrainOptions]:
    """Train the network on DATA, on scenes rendered from photographs, or both.

    Ctrl-C saves and stops. `disk train --save-dir run/ --resume` resumes with the original data and options; options
    given with --resume replace them. Several GPUs or machines: torchrun ... -m disk train ...

    Args:
        data: Folder with train/dataset.json and test/dataset.json.
        options: Options of training.
    """
    return data, options


def _given(argv: list[str]) -> set[str]:
    """The fields of TrainOptions given on the command line."""
    flags = {argument.split("=")[0][2:].replace("-", "_") for argument in argv if argument.startswith("--")}
    return {field.name for field in fields(TrainOptions)} & (flags | {flag.removeprefix("no_") for flag in flags})
