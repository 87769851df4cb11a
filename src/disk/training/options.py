"""Training options."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from disk.errors import DiskError, TrainingError
from disk.model.disk import STRIDE
from disk.options import Options, check_at_least, option
from disk.training.schedule import RateSchedule, Schedule


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """Options of `disk train`. A batch is a number of image tuples; an epoch is a number of batches.

    A resumed training keeps the options it was started with, except those given again.
    """

    save_dir: Path = Path("artifacts")
    """Folder for checkpoints (save-EPOCH.pth, last.pth) and logs (log.jsonl, TensorBoard)."""

    reward: Literal["depth", "epipolar"] = "depth"
    """What makes a match correct; images without depth always use epipolar."""

    original_reward: bool = False
    """Do not test for occlusion and for points behind a camera, as in the original."""

    reward_threshold: float = 1.5
    """Maximum error of a correct match in pixels."""

    synthesize: Path | None = None
    """Folder of photos to render scenes from while training, instead of or in addition to DATA."""

    synthetic_share: float = 0.5
    """With both DATA and --synthesize: fraction of the tuples that are rendered, mixed evenly into the batches."""

    views: int = 3
    """Images per rendered tuple."""

    height: int = 768
    """Height of the training images in pixels, a multiple of 16."""

    width: int = 768
    """Width of the training images in pixels, a multiple of 16."""

    batch_size: int = 2
    """Tuples per batch (in each process)."""

    substep: int = 1
    """Batches per optimiser step, over which gradients are summed; the last step of an epoch may have fewer."""

    chunk_size: int | None = None
    """Batches per epoch; default: 5000, or one pass over DATA if that is shorter."""

    warmup: int = 250
    """Batches in epoch 0, which has no penalties; at most --chunk-size."""

    n_epochs: int = 50
    """Number of epochs to train."""

    epoch_offset: int = 0
    """Number of the first epoch in the schedule; use with --load to fine-tune."""

    train_scene_limit: int = 1000
    """Maximum number of tuples per scene in one pass over the training data, drawn again for each pass."""

    test_scene_limit: int = 250
    """Maximum number of tuples per test scene to validate on (without DATA: rendered tuples); 0: no validation."""

    schedule: Schedule = "default"
    """Reward weights per epoch: default, as in the authors' script, or paper (with fine-tuning from epoch 50 on)."""

    keypoint_penalty: float = 0.001
    """Cost of a keypoint at full penalty, relative to a reward of 1 for a correct match; a higher cost gives fewer,
    better keypoints."""

    keypoint_share: float = 0.0
    """Fraction of an image's 8x8 cells that may have a keypoint at no extra cost; beyond it, keypoints cost up to their
    mean reward, so that they compete. 0: no extra cost, and nearly every cell ends up with a keypoint."""

    lr: float = 1e-4
    """Peak learning rate of Adam."""

    lr_schedule: RateSchedule = "constant"
    """Learning rate after the warm-up: constant, or cosine decay to --lr-final at the last step."""

    lr_warmup: int = 0
    """Optimiser steps over which the learning rate rises from 0 to --lr."""

    lr_final: float = 1e-5
    """Learning rate of the last step with --lr-schedule cosine."""

    average: float = 0.0
    """Decay of the moving average of the weights, which is validated and saved; 0: no averaging."""

    desc_dim: int = 128
    """Length of a descriptor."""

    augment: bool = False
    """Change brightness, contrast, gamma and colour, add noise, blur, shadows and JPEG artefacts, independently for
    each image."""

    load: str | None = None
    """Weights to start from: default, depth, epipolar, or a .pth or .safetensors file."""

    resume: bool = False
    """Continue from last.pth in --save-dir, if it exists, exactly where training stopped, with the original DATA and
    options; options given with --resume replace them."""

    time_limit: float | None = None
    """Minutes after which this run saves its state and stops; continue with --resume."""

    seed: int = 0
    """Random seed; the same seed gives the same training, on a GPU up to rounding."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the network; matching, rewards and weights are always fp32."""

    device: str = "auto"
    """Where to train, render and augment: cpu, cuda, cuda:1, mps; auto: a GPU if there is one."""

    workers: int | None = None
    """Processes that read DATA, 0: none; default: one less than the cores, at most 4, or 8 on a GPU."""

    renderers: int | None = None
    """Processes that render and augment in advance, 0: none; default: 2 on a CUDA GPU, none elsewhere."""

    compile: bool = False
    """Compile the network with torch.compile: slow to start, then often faster; ignored on a CUDA GPU."""

    def batches(self, epoch: int) -> int:
        """Number of batches in an epoch; chunk_size must be set."""
        assert self.chunk_size is not None
        return min(self.warmup, self.chunk_size) if epoch == 0 else self.chunk_size

    def step(self, epoch: int, batch: int) -> int:
        """Number of the optimiser step that starts after `batch` batches of an epoch."""
        before = range(self.epoch_offset, epoch)
        return sum(-(-self.batches(e) // self.substep) for e in before) - (-batch // self.substep)

    def check(self) -> None:
        """Check the values.

        Raises TrainingError if a value cannot be used.
        """
        for name in ("height", "width"):
            value = getattr(self, name)
            if value < STRIDE or value % STRIDE:
                raise TrainingError(f"{option(name, value)}: must be a multiple of {STRIDE}")
        least = dict.fromkeys(("batch_size", "substep", "chunk_size", "n_epochs", "desc_dim", "train_scene_limit"), 1)
        least |= dict.fromkeys(("warmup", "epoch_offset", "test_scene_limit", "workers", "renderers", "seed"), 0)
        least |= dict.fromkeys(("lr_warmup", "lr_final", "keypoint_penalty", "time_limit"), 0)
        try:
            check_at_least(self, views=2, **least)
        except DiskError as error:
            raise TrainingError(str(error)) from None
        for name in ("lr", "reward_threshold"):
            if not getattr(self, name) > 0:
                raise TrainingError(f"{option(name, getattr(self, name))}: must be above 0")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise TrainingError(f"{option(field.name, value)}: must be a finite number")
        for name in ("keypoint_share", "synthetic_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainingError(f"{option(name, getattr(self, name))}: must be between 0 and 1")
        if not 0 <= self.average < 1:
            raise TrainingError(f"{option('average', self.average)}: must be at least 0 and below 1")
        if self.seed >= 1 << 63:
            raise TrainingError(f"{option('seed', self.seed)}: must be below 2^63")
        if self.lr_schedule == "cosine" and self.lr_final > self.lr:
            raise TrainingError(f"{option('lr_final', self.lr_final)}: must not be above {option('lr', self.lr)}")

    def unused(self, data: Path | None) -> list[str]:
        """Options that differ from the defaults but have no effect, each with the reason."""
        without: dict[str, str] = {}
        if self.synthesize is None:
            without |= dict.fromkeys(("views", "synthetic_share", "renderers"), f"without {option('synthesize')}")
        elif data is None:
            without["synthetic_share"] = "without DATA all tuples are rendered"
        if data is None or (self.synthesize is not None and self.synthetic_share == 1):
            reason = "DATA is not used for training"
            without |= dict.fromkeys(("train_scene_limit", "workers"), reason)
        if self.lr_schedule == "constant":
            without["lr_final"] = f"with {option('lr_schedule', 'constant')}"
        defaults = TrainOptions()
        return [
            f"{option(name, getattr(self, name))} ({reason})"
            for name, reason in without.items()
            if getattr(self, name) != getattr(defaults, name)
        ]
