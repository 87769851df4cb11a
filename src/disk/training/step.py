"""The gradient of one batch: sampled keypoints, all pairs of each tuple, one backward through the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from disk.datasets.records import PosedImage
from disk.features import Features
from disk.model.detection import sample_grid
from disk.model.disk import DISK
from disk.rewards.depth import depth_reward
from disk.rewards.epipolar import epipolar_reward
from disk.shapes import Float, Tensor
from disk.training.loss import pair_loss
from disk.training.schedule import Weights


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
    bf16: bool = False,
) -> Float[Tensor, " 6"]:
    """Add the gradient of minus the reward, summed over all pairs of each tuple, to the parameters of the model.

    generators: for the keypoints of each tuple. Returns the fields of `Totals` as a tensor on the device. On a
    processor the tuples go through the network one by one, which takes less memory and no more time.
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
            bf16=bf16,
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
    bf16: bool,
) -> Float[Tensor, " 6"]:
    features = _sample(model, tuples, generators, bf16)
    leaves = [
        Features(f.keypoints, f.descriptors.detach().requires_grad_(), f.scores.detach().requires_grad_())
        for f in features
    ]
    views = [view for views in tuples for view in views]
    sums = torch.zeros(3, device=views[0].image.device)
    pairs = 0
    first = 0
    for views_of_tuple in tuples:
        for i, j in combinations(range(first, first + len(views_of_tuple)), 2):
            rewards = pair_reward(
                leaves[i].keypoints,
                leaves[j].keypoints,
                views[i],
                views[j],
                weights,
                epipolar=epipolar,
                visibility=visibility,
            )
            loss, stats = pair_loss(leaves[i], leaves[j], rewards, weights.theta, weights.keypoint)
            loss.backward()
            sums += torch.stack([stats.reward, stats.matches, stats.right])
            pairs += 1
        first += len(views_of_tuple)

    # an image without keypoints has empty tensors, and all images may be such
    outputs = [t for f in features for t in (f.descriptors, f.scores)]
    gradients = [t.grad for f in leaves for t in (f.descriptors, f.scores)]
    with_gradient = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None and o.requires_grad]
    if with_gradient:
        torch.autograd.backward(*map(list, zip(*with_gradient, strict=True)))
    keypoints = sum(len(f) for f in features)
    return torch.cat([sums, sums.new_tensor([pairs, keypoints, len(views)])])


def _sample(
    model: DISK, tuples: list[Sequence[PosedImage]], generators: list[torch.Generator], bf16: bool
) -> list[Features]:
    """Keypoints drawn for each image of each tuple, float32, with gradients."""
    images = torch.stack([view.image for views in tuples for view in views])
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        encoding = model.encode(images)
        heatmaps = model.heatmap(encoding).float().split([len(views) for views in tuples])
        drawn = [
            sample
            for heatmap, generator in zip(heatmaps, generators, strict=True)
            for sample in sample_grid(heatmap, generator)
        ]
        descriptors = model.describe(encoding, [points for points, _ in drawn])
    return [
        Features(points.float(), descriptor.float(), log_p.float())
        for (points, log_p), descriptor in zip(drawn, descriptors, strict=True)
    ]


def pair_reward(
    kps1: Float[Tensor, "n 2"],
    kps2: Float[Tensor, "m 2"],
    view1: PosedImage,
    view2: PosedImage,
    weights: Weights,
    *,
    epipolar: bool = False,
    visibility: bool = True,
) -> Float[Tensor, "n m"]:
    """Reward of every match: by depth where both images have it (unless `epipolar`), else by epipolar geometry."""
    cameras = (view1.camera, view2.camera)
    if epipolar or view1.depth is None or view2.depth is None:
        return epipolar_reward(
            kps1, kps2, *cameras, positive=weights.positive, negative=weights.negative, visibility=visibility
        )
    return depth_reward(
        kps1,
        kps2,
        *cameras,
        view1.depth,
        view2.depth,
        positive=weights.positive,
        negative=weights.negative,
        visibility=visibility,
    )


def tuple_generator(seed: int, number: int, device: torch.device) -> torch.Generator:
    """All randomness of one training tuple: it depends on its number alone, so a stopped run resumes exactly."""
    state = int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(state >> 1)


def _on_cpu(model: DISK) -> bool:
    return next(model.parameters()).device.type == "cpu"
