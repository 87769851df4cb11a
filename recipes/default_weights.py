"""Trains the default weights from openly licensed photos and posed scenes.

    python recipes/default_weights.py DATA OUT [--minutes 9] [--device cuda] [--precision bf16] [--start default]

DATA contains `photos/` and `photos2/`, single photos to render scenes from, and `multiview/SCENE/`, undistorted COLMAP
workspaces; --photos and --scenes select others. The first call prepares OUT/data, which is all that later calls need:
at most 36 MB, which can be copied to a machine without pycolmap, where DATA is not read. OUT then stays below 64 MiB.
The same command resumes the training after `--minutes`, Ctrl-C or a crash, until OUT/default.pth is written.

Stages:

1. `coarse` learns fast, from rendered scenes with almost no penalties. By its end every keypoint is accepted: the
   logits saturate the sigmoid that accepts keypoints, so nothing can be learnt about which of them to prefer, although
   the logits rank keypoints later. The heatmap is therefore scaled and shifted, which keeps the order of keypoints.
2. `fine` continues, also with real triplets, and with a cost that makes keypoints compete until half of them are
   rejected. On a GPU it uses larger images, eight triplets per step of which two are real, and a cosine schedule.
3. `finish`, on a CPU only, uses larger images and a lower learning rate.

At the end the heatmap is shifted again, so that large keypoint budgets can be filled. --start skips `coarse`.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from PIL import Image

from disk.datasets.import_colmap import ImportOptions, import_colmap
from disk.datasets.merge import merge
from disk.datasets.synthesis.sampler import SceneSampler
from disk.devices import choose_device
from disk.errors import DiskError
from disk.images.listing import list_images
from disk.model.checkpoints import load, save
from disk.model.detection import CELL
from disk.progress import log, setup
from disk.training.loop import train
from disk.training.options import TrainOptions

# flowerpot is excluded: its background does not move with the object, which breaks the epipolar reward
SCENES = (
    "rock", "caliterra", "lewis", "copr", "boruszyn", "brighton", "conch", "ochota", "park", "oppaiyama", "garfield",
    "snowmiku",
)  # fmt: skip
# long side of the photos and JPEG quality of all images; the first combination that fits MAX_BYTES is used
SIZES = ((1024, 75), (768, 75), (768, 65), (640, 65), (640, 50), (512, 50))
MAX_BYTES = 36e6

COMMON = TrainOptions(views=3, average=0.998, test_scene_limit=0)
COARSE = replace(COMMON, height=256, width=256, warmup=300, lr=5e-4, n_epochs=5)
# theta starts at 18: with a higher value, unlikely matches contribute less to learning
FINE = replace(
    COMMON, height=288, width=384, augment=True, synthetic_share=0.75, keypoint_share=0.4, schedule="paper",
    epoch_offset=3,
)  # fmt: skip
# cpu: one triplet per step, for two cores. cuda: eight triplets per step, in one long epoch with the weights of epoch 3
CPU = {"batch_size": 1, "workers": 0}
CUDA = {"batch_size": 8, "precision": "bf16"}
COSINE = {"lr": 4e-4, "lr_schedule": "cosine", "lr_warmup": 60, "lr_final": 1e-5}
STAGES = {
    "cpu": {
        "coarse": replace(COARSE, chunk_size=300, **CPU),
        "fine": replace(FINE, n_epochs=3, lr=2e-4, chunk_size=2000, **CPU),
        "finish": replace(FINE, n_epochs=2, chunk_size=2000, height=480, width=640, lr=1e-4, **CPU),
    },
    "cuda": {
        "coarse": replace(COARSE, chunk_size=300, **CUDA),
        "fine": replace(FINE, n_epochs=1, chunk_size=1750, height=480, width=640, **COSINE, **CUDA),
    },
}
# quartiles of the logits of proposed keypoints, for training and for the final weights
LEARNING, USING = (-3.0, 3.0), (1.0, 7.0)
RECENTRED_ON = 16  # number of rendered pairs to measure these quartiles on


def main(
    data: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    photos: tuple[Path, ...] = (),
    scenes: tuple[Path, ...] = (),
    start: str | None = None,
    minutes: float | None = None,
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] | None = None,
) -> None:
    """Prepare the data if necessary, and train for some minutes or to the end.

    photos: folders of photos; default: DATA/photos and, if it exists, DATA/photos2.
    scenes: COLMAP workspaces; default: those of SCENES in DATA/multiview.
    start: weights to start `fine` from, instead of running `coarse`.
    minutes: time limit of this call; default: none.
    precision: default: bf16 on a GPU, and fp32 on a CPU, where bf16 needs special instructions.
    """
    setup(quiet=False)
    began = time.monotonic()
    prepared = out / "data"
    if not prepared.exists():
        folders = photos or tuple(f for f in (data / "photos", data / "photos2") if f.name == "photos" or f.exists())
        prepare(folders, scenes or tuple(data / "multiview" / name for name in SCENES), prepared)
    rendered_from = prepared / "photos"
    stages = dict(STAGES["cuda" if choose_device(device).type == "cuda" else "cpu"])
    if start is not None:
        stages.pop("coarse")
        start = recentred(start, rendered_from, out / "start.pth")
    for name, options in stages.items():
        if name == "coarse" and (out / "coarse.pth").exists():
            start = str(out / "coarse.pth")
            continue
        left = None if minutes is None else minutes - (time.monotonic() - began) / 60
        folder = out / name
        if not done(folder, options) and (left is None or left > 0):
            options = replace(options, synthesize=rendered_from, save_dir=folder, resume=True, device=device)
            options = replace(options, precision=precision or options.precision, load=start, time_limit=left)
            train(None if name == "coarse" else prepared, options)
        if not done(folder, options):
            return log.info("stopped; run the same command to continue")
        start = str(folder / "final.pth")
        if name == "coarse":
            start = recentred(start, rendered_from, out / "coarse.pth")
            shutil.rmtree(folder)  # no longer needed, and keeps OUT small for copying
    assert start is not None
    recentre(start, rendered_from, out / "default.pth", USING)
    return log.info("done: %s", out / "default.pth")


def recentred(weights: str | Path, photos: Path, out: Path) -> str:
    """Write the weights with a heatmap recentred for training; returns the file."""
    recentre(weights, photos, out, LEARNING)
    return str(out)


def done(folder: Path, options: TrainOptions) -> bool:
    """Whether a stage has reached its last epoch."""
    last = folder / "last.pth"
    if not last.exists():
        return False
    epoch: int = torch.load(last, weights_only=True)["position"][0]
    return epoch == options.epoch_offset + options.n_epochs


def prepare(photos: Sequence[Path], scenes: Sequence[Path], out: Path) -> None:
    """Copy the photos and import the scenes, both reduced in size. `out` appears once everything is done."""
    part = out.with_name(out.name + ".part")
    for side, quality in SIZES:
        shutil.rmtree(part, ignore_errors=True)
        for folder in photos:
            for file in list_images(folder):
                # different folders may contain files of the same name
                target = (part / "photos" / folder.name / file.relative).with_suffix(".jpg")
                shrink(file.path, target, side, quality)
        for scene in scenes:
            for file in list_images(scene / "images"):
                shrink(file.path, part / "multiview" / scene.name / "images" / file.relative, None, quality)
        if sum(file.stat().st_size for file in part.rglob("*") if file.is_file()) <= MAX_BYTES:
            break
    else:
        log.warning("%s is larger than %.0f MB", out, MAX_BYTES / 1e6)
    sources = []
    for scene in scenes:
        copy = part / "multiview" / scene.name
        shutil.copytree(scene / "sparse", copy / "sparse")
        choice = ImportOptions(
            no_depth=True, tuple_size=3, min_overlap=0.4, max_overlap=0.9, relative=True, out=copy / "dataset"
        )
        import_colmap(copy, choice)
        shutil.rmtree(copy / "sparse")
        sources.append(copy / "dataset" / "dataset.json")
    merge(sources, part / "train" / "dataset.json", relative=True)
    part.rename(out)


def shrink(source: Path, target: Path, side: int | None, quality: int) -> None:
    """Write an image with a long side of at most `side` pixels and, if it is a JPEG, with this quality."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as image:
        pixels = image.convert("RGB")
    if side is not None:
        pixels.thumbnail((side, side), Image.Resampling.LANCZOS)
    pixels.save(target, quality=quality)


@torch.no_grad()
def recentre(weights: str | Path, photos: Path, out: Path, quartiles: tuple[float, float]) -> None:
    """Scale and shift the heatmap so that the logits of proposed keypoints have these lower and upper quartiles.

    An existing `out` is kept.
    """
    if out.exists():
        return
    model = load(weights, "cpu")
    tuples = SceneSampler(photos, 256, 256, 2, "cpu", 1).tuples(range(RECENTRED_ON))
    heatmaps = model.heatmap(model.encode(torch.stack([view.image for views in tuples for view in views])))
    cells = heatmaps.unfold(1, CELL, CELL).unfold(2, CELL, CELL).flatten(3)
    proposed = (cells.softmax(3) * cells).sum(3).flatten()
    low, high = torch.quantile(proposed, torch.tensor([0.25, 0.75])).tolist()
    scale = (quartiles[1] - quartiles[0]) / (high - low)
    _, weight, bias = model.unet.path_up[-1].conv.weights()
    weight[model.desc_dim] *= scale
    bias[model.desc_dim] = (bias[model.desc_dim] - low) * scale + quartiles[0]
    save(model, out)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except DiskError as error:
        sys.exit(str(error))
