"""Learning curve: trains from random weights on photos, and evaluates at the start and every few minutes.

    python benchmarks/learning.py PHOTOS PAIRS IMAGES [--minutes 30] [--every 5] [--output docs/images/learning]

PHOTOS is a folder of photos, of which every tenth is held out. PAIRS and IMAGES are a list of pairs with ground truth
and its images, as for `disk evaluate pose`. The figures are correct matches in scenes rendered from the held-out
photos, and the AUC of relative pose at 10 degrees on the pairs. Writes OUTPUT.json and plots it to OUTPUT.svg. The
training is kept next to them in OUTPUT-run/; after an interruption, the same command resumes it.
"""

from __future__ import annotations

import json
import shutil
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from disk.datasets.records import PosedImage
from disk.datasets.synthesis.sampler import SceneSampler
from disk.evaluation.pose import PoseOptions, evaluate_pose
from disk.images.listing import list_images
from disk.images.reading import read_image
from disk.images.resizing import place
from disk.matching.api import match
from disk.model.checkpoints import load, save
from disk.model.disk import DISK
from disk.progress import setup
from disk.rewards.matches import matched_rewards
from disk.rewards.terms import RewardOptions
from disk.training.loop import train
from disk.training.options import TrainOptions

SIZE = 256
HELD_OUT_PAIRS = 40
KEYPOINTS = 1000


def main(
    photos: tyro.conf.Positional[Path],
    pairs: tyro.conf.Positional[Path],
    images: tyro.conf.Positional[Path],
    minutes: float = 30,
    every: float = 5,
    output: Path = Path("docs/images/learning"),
) -> None:
    """Train for some minutes and evaluate every few; figures from before an interruption are kept."""
    setup(quiet=False)
    run, record = output.with_name(output.name + "-run"), output.with_suffix(".json")
    training, held_out = split(photos, run)
    scenes = SceneSampler(held_out, SIZE, SIZE, 2, "cpu", 1).tuples(range(HELD_OUT_PAIRS))
    options = TrainOptions(
        save_dir=run,
        synthesize=training,
        views=3,
        height=SIZE,
        width=SIZE,
        batch_size=1,
        lr=5e-4,
        average=0.998,
        warmup=300,
        chunk_size=300,
        n_epochs=1000,
        test_scene_limit=0,
        resume=True,
        time_limit=every,
    )
    resumes = record.exists() and (run / "last.pth").exists()
    points: list[dict[str, Any]] = json.loads(record.read_text()) if resumes else []
    if not points:
        torch.manual_seed(options.seed)
        start = run / "random.pth"
        save(DISK(), start)
        points.append({"minutes": 0.0, "steps": 0, **measure(start, scenes, pairs, images)})
    while points[-1]["minutes"] < minutes - 0.1:
        began = time.monotonic()
        weights = train(None, options)
        took = (time.monotonic() - began) / 60
        steps = torch.load(run / "last.pth", weights_only=True)["position"][2]
        figures = measure(weights, scenes, pairs, images)
        points.append({"minutes": points[-1]["minutes"] + took, "steps": steps, **figures})
        record.write_text(json.dumps(points, indent=1) + "\n")
        print(points[-1], flush=True)
    plot(points, output.with_suffix(".svg"))


def split(photos: Path, run: Path) -> tuple[Path, list[np.ndarray]]:
    """A folder of the photos to train on, and the held-out ones, every tenth, as images."""
    files = list_images(photos)
    folder = run / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files):
        if number % 10:
            shutil.copyfile(file.path, folder / f"{number}{file.path.suffix}")
    return folder, [place(read_image(file.path), max_size=1024)[0] for file in files[::10]]


def measure(weights: Path, scenes: list[list[PosedImage]], pairs: Path, images: Path) -> dict[str, float]:
    """Correct matches per rendered pair (within 3 px, 1000 keypoints each), precision, and AUC@10 on the pairs."""
    model = load(weights)
    correct, total = 0, 0
    for views in scenes:
        f1, f2 = model.detect([view.image for view in views], n=KEYPOINTS, max_size=0, subpixel=False)
        indices = match(f1, f2, ratio=None).indices
        kps1, kps2 = f1.keypoints[indices[:, 0]], f2.keypoints[indices[:, 1]]
        cameras, depths = [view.camera for view in views], [view.depth for view in views]
        rewards = matched_rewards(kps1, kps2, *cameras, *depths, RewardOptions(threshold=3.0))
        correct += int((rewards > 0).sum())
        total += len(indices)
    options = PoseOptions(weights=(str(weights),), threshold=(1.0,))
    auc = evaluate_pose(pairs, images, options).results[0].figures[""]["AUC@10"]
    return {"correct": correct / len(scenes), "precision": correct / max(total, 1), "auc": float(auc or 0)}


def plot(points: list[dict[str, Any]], path: Path) -> None:
    """Plot correct matches and AUC against minutes of training."""
    from matplotlib.figure import Figure

    assert all(a["minutes"] < b["minutes"] for a, b in pairwise(points))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, key, label in zip(
        figure.subplots(1, 2),
        ("correct", "auc"),
        ("correct matches per held-out rendered pair", "AUC@10° of relative pose, real photos"),
        strict=True,
    ):
        axes.plot([p["minutes"] for p in points], [p[key] for p in points], marker="o")
        axes.set(xlabel="minutes of training", title=label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        steps = axes.secondary_xaxis("top")
        steps.set_ticks([p["minutes"] for p in points], [f"{p['steps']}" for p in points], fontsize=7)
        steps.set_xlabel("steps", fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    tyro.cli(main)
