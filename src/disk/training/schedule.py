"""Schedules of training: rewards, penalties, matching temperature and learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Schedule = Literal["default", "paper"]
RateSchedule = Literal["constant", "cosine"]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of one epoch.

    positive: reward of a correct match.
    negative: reward of a wrong match.
    keypoint: reward of a keypoint, matched or not.
    theta: inverse temperature of the match distribution.
    """

    positive: float
    negative: float
    keypoint: float
    theta: float


def weights_at(schedule: Schedule, epoch: int, keypoint_penalty: float = 0.001) -> Weights:
    """The weights of an epoch.

    Penalties start at 0 and are full from epoch 5 on: with penalties from the first step, the easiest policy is to
    detect no keypoints. The schedule `default` follows the authors' training script: theta rises from 15 to 50 over 20
    epochs. `paper` follows Tyszkiewicz et al. 2020, section 4: theta rises from 15 to 25 over 10 epochs and stays there
    until epoch 50; then the best checkpoint is fine-tuned, with theta = 25 + the epoch of fine-tuning.
    epoch: counted from 0.
    keypoint_penalty: final cost of a keypoint, relative to a reward of 1 for a correct match.
    """
    ramp = (0.0, 0.1)[epoch] if epoch < 2 else min(1.0, 0.1 + 0.2 * epoch)
    if schedule == "default":
        theta = 15.0 + 35 * min(1.0, 0.05 * epoch)
    else:
        theta = 15.0 + min(epoch, 10) + max(epoch - 50, 0)
    return Weights(positive=1.0, negative=-0.25 * ramp, keypoint=-keypoint_penalty * ramp, theta=theta)


def learning_rate(
    schedule: RateSchedule, step: int, steps: int, *, peak: float, final: float = 0.0, warmup: int = 0
) -> float:
    """The learning rate of an optimiser step.

    It rises linearly over the warm-up, then stays constant or follows a cosine decay (Loshchilov and Hutter 2017,
    without restarts).
    step: number of the step, counted from 0.
    steps: number of all steps.
    peak: rate at the end of the warm-up.
    final: rate of the last step of the cosine decay.
    warmup: number of warm-up steps.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    done = (step - warmup + 1) / max(steps - warmup, 1)
    return final + (peak - final) * (1 + math.cos(math.pi * min(done, 1.0))) / 2
