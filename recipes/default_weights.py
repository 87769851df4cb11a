"""The recipe of the default weights: from openly licensed photographs and posed scenes to a checkpoint.

    python recipes/default_weights.py DATA OUT [--minutes 9] [--device cuda] [--precision bf16] [--start default]

DATA has `photos/` and `photos2/`, single photographs from which scenes are rendered, and `multiview/SCENE/`,
undistorted COLMAP workspaces; --photos and --scenes name others. The first call prepares OUT/data, which is all that
later calls need: at most 36 MB that can be carried to a machine without pycolmap, where DATA is not read; OUT then
stays below 64 MiB. The same command continues the training after `--minutes`, Ctrl-C or a crash, until OUT/default.pth
is written.

Stages. `coarse` learns from rendered scenes without penalties to speak of, fast. By then every keypoint is accepted:
the logits are so large that the sigmoid that accepts is saturated, nothing can be learnt about which keypoints to
prefer, and it is by their logits that the best ones are taken later. So the heatmap is scaled and moved, which changes
no order of keypoints, before `fine` learns on, on real triplets too, with a price that makes keypoints compete and half
of them rejected, and, on a CPU, `finish` on larger images at a lower learning rate. On a GPU `fine` has the larger
images, eight triplets a step of which two are real, and a rate that falls along a cosine. In the end the heatmap is
moved again, so that who asks for many keypoints gets them. --start leaves `coarse` out.
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

# flowerpot is left out: its background does not move with the object, which breaks the epipolar reward
SCENES = (
    "rock", "caliterra", "lewis", "copr", "boruszyn", "brighton", "conch", "ochota", "park", "oppaiyama", "garfield",
    "snowmiku",
)  # fmt: skip
# long side of the photographs and JPEG quality of all images: the first of these that fits MAX_BYTES
SIZES = ((1024, 75), (768, 75), (768, 65), (640, 65), (640, 50), (512, 50))
MAX_BYTES = 36e6

COMMON = TrainOptions(views=3, average=0.998, test_scene_limit=0)
COARSE = replace(COMMON, height=256, width=256, warmup=300, lr=5e-4, n_epochs=5)
# theta begins with 18: with a higher one, unlikely matches teach less
FINE = replace(
    COMMON, height=288, width=384, augment=True, synthetic_share=0.75, keypoint_share=0.4, schedule="paper",
    epoch_offset=3,
)  # fmt: skip
# cpu: two cores, one triplet a step. cuda: eight, as one long epoch with the weights of epoch 3.
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
# quartiles of the logits of proposed keypoints: those to learn from, and those to use
LEARNING, USING = (-3.0, 3.0), (1.0, 7.0)
RECENTRED_ON = 16  # rendered pairs that are looked at for that


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
    """Prepare the data if that has not been done, and train for some minutes or to the end.

    photos: folders of photographs; default DATA/photos and, if it is there, DATA/photos2. scenes: COLMAP workspaces;
    default those of SCENES in DATA/multiview. start: weights to start `fine` from, instead of `coarse`.
    precision: default fp32 on a processor, where bf16 needs instructions of its own, and bf16 on a GPU.
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
            return log.info("stopped; the same command continues")
        start = str(folder / "final.pth")
        if name == "coarse":
            start = recentred(start, rendered_from, out / "coarse.pth")
            shutil.rmtree(folder)  # of no more use, and OUT may have to be carried
    assert start is not None
    recentre(start, rendered_from, out / "default.pth", USING)
    return log.info("done: %s", out / "default.pth")


def recentred(weights: str | Path, photos: Path, out: Path) -> str:
    """The file of the weights with a heatmap to learn from."""
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
    """Copy the photographs and import the scenes, smaller than they are; `out` appears when all is done."""
    part = out.with_name(out.name + ".part")
    for side, quality in SIZES:
        shutil.rmtree(part, ignore_errors=True)
        for folder in photos:
            for file in list_images(folder):
                # folders may have files of the same name
                target = (part / "photos" / folder.name / file.relative).with_suffix(".jpg")
                shrink(file.path, target, side, quality)
        for scene in scenes:
            for file in list_images(scene / "images"):
                shrink(file.path, part / "multiview" / scene.name / "images" / file.relative, None, quality)
        if sum(file.stat().st_size for file in part.rglob("*") if file.is_file()) <= MAX_BYTES:
            break
    else:
        log.warning("%s takes more than %.0f MB", out, MAX_BYTES / 1e6)
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
    """Write an image with its long side at most `side` and, where it is a JPEG, of this quality."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as image:
        pixels = image.convert("RGB")
    if side is not None:
        pixels.thumbnail((side, side), Image.Resampling.LANCZOS)
    pixels.save(target, quality=quality)


@torch.no_grad()
def recentre(weights: str | Path, photos: Path, out: Path, quartiles: tuple[float, float]) -> None:
    """Scale and move the heatmap so that the logits of proposed keypoints have these lower and upper quartiles.

    What has been written stays as it is.
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
