"""The recipe of the default weights: from openly licensed photographs and posed scenes to a checkpoint.

    python recipes/default_weights.py DATA OUT [--minutes 9] [--device cpu]

DATA has `photos/`, single photographs from which scenes are rendered, and `multiview/SCENE/`, undistorted COLMAP
workspaces. The first call prepares OUT/data, which is all that later calls need: 60 MB that can be carried to a
machine without pycolmap, where DATA is not read. Training stays in OUT/run; the same command goes on with it after
`--minutes`, Ctrl-C or a crash, until OUT/run/final.pth is that of the last stage.
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from PIL import Image

from disk.datasets.import_colmap import ImportOptions, import_colmap
from disk.datasets.merge import merge
from disk.errors import DiskError
from disk.progress import log, setup
from disk.training.loop import train
from disk.training.options import TrainOptions

# flowerpot is left out: its background does not move with the object, which breaks the epipolar reward
SCENES = ("rock", "caliterra", "lewis", "copr", "boruszyn", "brighton", "conch")
JPEG_QUALITY = 75


@dataclass(frozen=True)
class Stage:
    """Options from the epoch where the stage before ended up to epoch `until`; real: share of real triplets."""

    until: int
    real: float
    options: TrainOptions


COMMON = TrainOptions(views=3, lr=5e-4, average=0.998, test_scene_limit=0, schedule="default")
# two cores: small images, one triplet a step
CPU = replace(COMMON, height=256, width=256, batch_size=1, warmup=300, chunk_size=300, workers=0)
# a GPU for half an hour at a time: larger images, more triplets, bf16. Not run yet: there was no GPU.
CUDA = replace(
    COMMON, height=512, width=512, batch_size=4, warmup=300, chunk_size=1000, workers=8, precision="bf16", average=0.999
)
STAGES = {
    "cpu": (Stage(6, 0.0, CPU), Stage(20, 0.25, replace(CPU, augment=True))),
    "cuda": (Stage(2, 0.0, CUDA), Stage(40, 0.25, replace(CUDA, augment=True))),
}


def main(
    data: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    minutes: float | None = None,
    device: str = "cpu",
) -> None:
    """Prepare the data if that has not been done, and train for some minutes or to the end."""
    setup(quiet=False)
    prepared = out / "data"
    if not prepared.exists():
        prepare(data, prepared)
    end = None if minutes is None else time.monotonic() + 60 * minutes
    for stage in STAGES[device.split(":")[0]]:
        left = None if end is None else (end - time.monotonic()) / 60
        if left is not None and left <= 0:
            break
        options = replace(
            stage.options,
            save_dir=out / "run",
            synthesize=prepared / "photos",
            synthetic_share=1 - stage.real,
            n_epochs=stage.until,
            resume=True,
            time_limit=left,
            device=device,
        )
        weights = train(prepared if stage.real else None, options)
        if torch.load(out / "run" / "last.pth", weights_only=True)["position"][0] < stage.until:
            log.info("stopped; the same command goes on")
            break
    else:
        log.info("done: %s", weights)


def prepare(data: Path, out: Path) -> None:
    """Copy the photographs and import the scenes, smaller than they are; `out` appears when all is done."""
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(data / "photos", part / "photos")
    sources = []
    for name in SCENES:
        scene = part / "multiview" / name
        shutil.copytree(data / "multiview" / name, scene)
        for file in (scene / "images").iterdir():
            with Image.open(file) as image:
                small = image.convert("RGB")
            small.save(file, quality=JPEG_QUALITY)
        choice = ImportOptions(
            no_depth=True, tuple_size=3, min_overlap=0.4, max_overlap=0.9, relative=True, out=scene / "dataset"
        )
        import_colmap(scene, choice)
        sources.append(scene / "dataset" / "dataset.json")
    merge(sources, part / "train" / "dataset.json", relative=True)
    part.rename(out)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except DiskError as error:
        sys.exit(str(error))
