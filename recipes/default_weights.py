"""The recipe of the default weights: from openly licensed photographs and posed scenes to a checkpoint.

    python recipes/default_weights.py DATA OUT [--minutes 9] [--device cpu] [--precision bf16]

DATA has `photos/`, single photographs from which scenes are rendered, and `multiview/SCENE/`, undistorted COLMAP
workspaces. The first call prepares OUT/data, which is all that later calls need: 60 MB that can be carried to a
machine without pycolmap, where DATA is not read. The same command goes on with the training after `--minutes`, Ctrl-C
or a crash, until OUT/default.pth is written.

Three stages. `coarse` learns from rendered scenes without penalties to speak of, fast. By then every keypoint is
accepted: the logits are so large that the sigmoid that accepts is saturated, nothing can be learnt about which
keypoints to prefer, and it is by their logits that the best ones are taken later. So the heatmap is scaled and moved,
which changes no order of keypoints, before `fine` learns on, on real triplets too, with a price that makes keypoints
compete and half of them rejected, and `finish` on larger images (which a GPU has in `fine` already) at a lower learning
rate. In the end the heatmap is moved again, so that who asks for many keypoints gets them.
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from PIL import Image

from disk.datasets.import_colmap import ImportOptions, import_colmap
from disk.datasets.merge import merge
from disk.datasets.synthesis.sampler import SceneSampler
from disk.errors import DiskError
from disk.model.checkpoints import load, save
from disk.model.detection import CELL
from disk.progress import log, setup
from disk.training.loop import train
from disk.training.options import TrainOptions

# flowerpot is left out: its background does not move with the object, which breaks the epipolar reward
SCENES = ("rock", "caliterra", "lewis", "copr", "boruszyn", "brighton", "conch")
JPEG_QUALITY = 75

COMMON = TrainOptions(views=3, average=0.998, test_scene_limit=0)
COARSE = replace(COMMON, height=256, width=256, warmup=300, lr=5e-4)
# theta begins with 18: with a higher one, unlikely matches teach less
FINE = replace(
    COMMON, height=288, width=384, augment=True, synthetic_share=0.75, keypoint_share=0.4, schedule="paper",
    epoch_offset=3,
)  # fmt: skip
# cpu: two cores, one triplet a step. cuda: half an hour at a time; not run yet, as there was no GPU.
CPU = {"batch_size": 1, "workers": 0}
CUDA = {"batch_size": 4, "chunk_size": 500, "workers": 8, "precision": "bf16"}
LARGE = {**CUDA, "height": 480, "width": 640, "average": 0.999}
STAGES = {
    "cpu": {
        "coarse": replace(COARSE, n_epochs=5, chunk_size=300, **CPU),
        "fine": replace(FINE, n_epochs=3, lr=2e-4, chunk_size=2000, **CPU),
        "finish": replace(FINE, n_epochs=2, chunk_size=2000, height=480, width=640, lr=1e-4, **CPU),
    },
    "cuda": {
        "coarse": replace(COARSE, n_epochs=5, **CUDA),
        "fine": replace(FINE, n_epochs=10, lr=2e-4, **LARGE),
        "finish": replace(FINE, n_epochs=6, lr=1e-4, **LARGE),
    },
}
# quartiles of the logits of proposed keypoints: those to learn from, and those to use
LEARNING, USING = (-3.0, 3.0), (1.0, 7.0)


def main(
    data: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    minutes: float | None = None,
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] | None = None,
) -> None:
    """Prepare the data if that has not been done, and train for some minutes or to the end.

    precision: default fp32 on a processor, where bf16 needs instructions of its own, and bf16 on a GPU.
    """
    setup(quiet=False)
    began = time.monotonic()
    prepared, start = out / "data", None
    photos = prepared / "photos"
    if not prepared.exists():
        prepare(data, prepared)
    for name, options in STAGES[device.split(":")[0]].items():
        left = None if minutes is None else minutes - (time.monotonic() - began) / 60
        folder = out / name
        if not done(folder, options) and (left is None or left > 0):
            options = replace(options, synthesize=photos, save_dir=folder, resume=True, device=device)
            options = replace(options, precision=precision or options.precision, load=start, time_limit=left)
            train(None if start is None else prepared, options)
        if not done(folder, options):
            return log.info("stopped; the same command goes on")
        weights = folder / "final.pth"
        if name == "coarse":
            weights = folder / "recentred.pth"
            recentre(folder / "final.pth", photos, weights, LEARNING)
        start = str(weights)
    recentre(weights, photos, out / "default.pth", USING)
    return log.info("done: %s", out / "default.pth")


def done(folder: Path, options: TrainOptions) -> bool:
    """Whether a stage has reached its last epoch."""
    last = folder / "last.pth"
    if not last.exists():
        return False
    epoch: int = torch.load(last, weights_only=True)["position"][0]
    return epoch == options.epoch_offset + options.n_epochs


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
                pixels = image.convert("RGB")
            pixels.save(file, quality=JPEG_QUALITY)
        choice = ImportOptions(
            no_depth=True, tuple_size=3, min_overlap=0.4, max_overlap=0.9, relative=True, out=scene / "dataset"
        )
        import_colmap(scene, choice)
        shutil.rmtree(scene / "sparse")
        sources.append(scene / "dataset" / "dataset.json")
    merge(sources, part / "train" / "dataset.json", relative=True)
    part.rename(out)


@torch.no_grad()
def recentre(weights: Path, photos: Path, out: Path, quartiles: tuple[float, float]) -> None:
    """Scale and move the heatmap so that the logits of proposed keypoints have these lower and upper quartiles.

    What has been written stays as it is.
    """
    if out.exists():
        return
    model = load(weights)
    tuples = SceneSampler(photos, 256, 256, 2, "cpu", 1).tuples(range(16))
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
