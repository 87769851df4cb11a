"""The gradient of one batch: sampled keypoints, all pairs of each tuple, one backward through the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch

from disk.datasets.records import PosedImage
from disk.features import Features
from disk.model.detection import CELL, sample_grid
from disk.model.disk import DISK
from disk.rewards.depth import depth_reward
from disk.rewards.epipolar import epipolar_reward
from disk.shapes import Float, Tensor
from disk.training.loss import pair_gradient
from disk.training.schedule import Weights

_REWARDS_AT_ONCE = {"cpu": 1 << 19, "other": 1 << 26}


@dataclass(frozen=True)
class Totals:
    """Sums over some batches: expected rewards, matches and right matches of all pairs, and counts."""

    reward: float
    matches: float
    right: float
    pairs: float
    keypoints: float
    images: float


def accumulate_gradient(
    model: DISK,
    batch: Sequence[Sequence[PosedImage]],
    generators: Sequence[torch.Generator],
    weights: Weights,
    *,
    epipolar: bool = False,
    visibility: bool = True,
    threshold: float = 1.5,
    bf16: bool = False,
    share: float = 0.0,
) -> Float[Tensor, " 6"]:
    """Add the gradient of minus the reward, summed over all pairs of each tuple, to the parameters of the model.

    generators: for the keypoints of each tuple. share: of the grid's cells that may have a keypoint free of charge, 0
    for all; beyond it a keypoint costs up to the mean reward of its image. Returns the fields of `Totals` as a tensor
    on the device. On a processor the tuples go through the network one by one, which takes less memory and no more
    time.
    """
    groups = [[i] for i in range(len(batch))] if _on_cpu(model) else [list(range(len(batch)))]
    totals = [
        _accumulate(
            model,
            [batch[i] for i in group],
            [generators[i] for i in group],
            weights,
            epipolar=epipolar,
            visibility=visibility,
            threshold=threshold,
            bf16=bf16,
            share=share,
        )
        for group in groups
        if group
    ]
    return torch.stack(totals).sum(0)


def _accumulate(
    model: DISK,
    tuples: list[Sequence[PosedImage]],
    generators: list[torch.Generator],
    weights: Weights,
    *,
    epipolar: bool,
    visibility: bool,
    threshold: float,
    bf16: bool,
    share: float,
) -> Float[Tensor, " 6"]:
    features = _sample(model, tuples, generators, bf16)
    outputs = [t for f in features for t in (f.descriptors, f.scores)]
    gradients = [torch.zeros_like(t) for t in outputs]
    views = [view for views in tuples for view in views]
    sums = views[0].image.new_zeros(3)
    pairs = _pairs([len(views) for views in tuples])
    for i, j in pairs:
        rewards = pair_rewards(
            features[i].keypoints,
            features[j].keypoints,
            views[i],
            views[j],
            weights,
            epipolar=epipolar,
            visibility=visibility,
            threshold=threshold,
        )
        pair = pair_gradient(features[i], features[j], rewards, weights.theta, weights.keypoint)
        gradients[2 * i] += pair.descriptors1
        gradients[2 * i + 1] += pair.scores1
        gradients[2 * j] += pair.descriptors2
        gradients[2 * j + 1] += pair.scores2
        sums += torch.stack([pair.reward, pair.matches, pair.right])

    if share > 0:
        for view, score_gradient in zip(views, gradients[1::2], strict=True):
            score_gradient += _price(-score_gradient, share * view.image[0].numel() / CELL**2)

    # images without keypoints may leave no graph
    graph = [(output, gradient) for output, gradient in zip(outputs, gradients, strict=True) if output.requires_grad]
    if graph:
        torch.autograd.backward([output for output, _ in graph], [gradient for _, gradient in graph])
    keypoints = sum(len(f) for f in features)
    return torch.cat([sums, sums.new_tensor([len(pairs), keypoints, len(views)])])


def _price(rewards: Float[Tensor, " n"], free: float) -> Tensor | float:
    """What each keypoint of an image costs, given their rewards: 0 for up to `free`, their mean from twice as many on.

    A price for all keypoints alike teaches which are worth more than others; one that falls to nothing with their
    number cannot drive them out.
    """
    if len(rewards) <= free:
        return 0.0
    return rewards.mean().clamp(min=0) * min(len(rewards) / free - 1, 1.0)


def _pairs(lengths: list[int]) -> list[tuple[int, int]]:
    """All pairs within each tuple, numbered through all tuples."""
    pairs: list[tuple[int, int]] = []
    first = 0
    for length in lengths:
        pairs += combinations(range(first, first + length), 2)
        first += length
    return pairs


def _sample(
    model: DISK, tuples: list[Sequence[PosedImage]], generators: list[torch.Generator], bf16: bool
) -> list[Features]:
    """Keypoints drawn for each image of each tuple, with gradients, in the precision of the images."""
    images = torch.stack([view.image for views in tuples for view in views])
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        encoding = model.encode(images)
        heatmaps = model.heatmap(encoding).to(images.dtype).split([len(views) for views in tuples])
        drawn = [
            sample
            for heatmap, generator in zip(heatmaps, generators, strict=True)
            for sample in sample_grid(heatmap, generator)
        ]
        descriptors = model.describe(encoding, [points for points, _ in drawn])
    return [
        Features(points.to(images.dtype), descriptor.to(images.dtype), log_p)
        for (points, log_p), descriptor in zip(drawn, descriptors, strict=True)
    ]


@torch.no_grad()
def pair_rewards(
    kps1: Float[Tensor, "n 2"],
    kps2: Float[Tensor, "m 2"],
    view1: PosedImage,
    view2: PosedImage,
    weights: Weights,
    *,
    epipolar: bool = False,
    visibility: bool = True,
    threshold: float = 1.5,
) -> Float[Tensor, "n m"]:
    """Reward of every match: by depth where both images have it (unless `epipolar`), else by epipolar geometry.

    threshold: within which a match is right, in pixels.
    """
    options: dict[str, Any] = {
        "positive": weights.positive,
        "negative": weights.negative,
        "threshold": threshold,
        "visibility": visibility,
    }
    rewards = kps1.new_empty(len(kps1), len(kps2))
    # in blocks of rows: a test of all pairs takes many matrices of their size
    step = max(_REWARDS_AT_ONCE["cpu" if kps1.device.type == "cpu" else "other"] // max(len(kps2), 1), 1)
    for block in (slice(first, first + step) for first in range(0, len(kps1), step)):
        some, cameras = kps1[block], (view1.camera, view2.camera)
        if epipolar or view1.depth is None or view2.depth is None:
            rewards[block] = epipolar_reward(some, kps2, *cameras, **options)
        else:
            rewards[block] = depth_reward(some, kps2, *cameras, view1.depth, view2.depth, **options)
    return rewards


def tuple_generator(
    seed: int, number: int, purpose: Literal["keypoints", "augmentation"], device: torch.device
) -> torch.Generator:
    """The randomness of one training tuple: it depends on its number alone, so a stopped run resumes exactly."""
    sequence = np.random.SeedSequence([seed, number, ("keypoints", "augmentation").index(purpose)])
    return torch.Generator(device).manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))


def _on_cpu(model: DISK) -> bool:
    return next(model.parameters()).device.type == "cpu"
