"""What changes in the course of training: rewards, penalties, the temperature of matching, the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Schedule = Literal["default", "paper"]
RateSchedule = Literal["constant", "cosine"]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of one epoch.

    positive, negative: reward of a right and of a wrong match; keypoint: reward of a keypoint, whatever becomes
    of it; theta: inverse temperature of the match distribution.
    """

    positive: float
    negative: float
    keypoint: float
    theta: float


def weights_at(schedule: Schedule, epoch: int, keypoint_penalty: float = 0.001) -> Weights:
    """The weights of an epoch, counted from 0.

    keypoint_penalty: what a keypoint costs in the end, where a right match earns 1. Penalties start at 0 and are full
    from epoch 5: with them from the first step the easiest policy is to have no keypoints. `default` is the authors'
    training script: theta from 15 to 50 over 20 epochs. `paper` is the article's (Tyszkiewicz et al. 2020,
    section 4): theta from 15 to 25 over 10 epochs and level to epoch 50; from there on the fine-tuning of the best
    checkpoint, theta = 25 + its own epoch.
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
    """The learning rate of one of `steps` steps of the optimiser, counted from 0.

    It rises in equal parts to `peak` over `warmup` steps; from there on it is constant, or falls along half a cosine
    to `final`, which is the rate of the last step (Loshchilov and Hutter 2017, without restarts).
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    done = (step - warmup + 1) / max(steps - warmup, 1)
    return final + (peak - final) * (1 + math.cos(math.pi * min(done, 1.0))) / 2
