"""What the GPU benchmarks compare with: kornia, and the original's formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import disk
from disk.features import Features
from disk.model.detection import sample_grid
from disk.model.disk import DISK
from disk.rewards.matches import pair_rewards
from disk.training.schedule import weights_at
from disk.training.step import Objective
from gpu_measuring import Plan

RATIO = 0.95
WEIGHTS = weights_at("default", 5)
OBJECTIVE = Objective(weights=WEIGHTS)


def kornia_detector(precision: str, plan: Plan) -> Callable[[Tensor], Any]:
    """kornia's DISK with the same weights: fp16 with autocast, fp32 with TF32 convolutions, torch's default."""
    from kornia.feature import DISK as Theirs

    theirs = Theirs()
    theirs.load_state_dict(disk.load(device="cpu").state_dict())
    theirs = theirs.to(plan.device).eval()
    half = precision == "fp16"

    @torch.inference_mode()
    def run(images: Tensor) -> Any:
        with torch.autocast(plan.device.type, torch.float16, enabled=half):
            return theirs(images, plan.n)

    return run


def original_match(d0: Tensor, d1: Tensor) -> Tensor:
    """The original's formula: distance matrix, two nearest neighbours in both directions, mutual matches."""
    distances = (2 - 2 * (d0 @ d1.T)).clamp(min=1e-6).sqrt()
    near0, index0 = distances.topk(2, dim=1, largest=False)
    near1, index1 = distances.topk(2, dim=0, largest=False)
    rows = torch.arange(len(d0), device=d0.device)
    back = index1[0][index0[:, 0]]
    good = (back == rows) & (near0[:, 0] < RATIO * near0[:, 1])
    good &= (near1[0] < RATIO * near1[1])[index0[:, 0]]
    return torch.stack([rows, index0[:, 0]], 1)[good]


def rewards(f1: Features, f2: Features, view1: Any, view2: Any) -> Tensor:
    """The reward of every match of a pair."""
    return pair_rewards(
        f1.keypoints, f2.keypoints, view1.camera, view2.camera, view1.depth, view2.depth, OBJECTIVE.rewards
    )


def dense_gradient(model: DISK, batch: Any, generators: list[torch.Generator], bf16: bool) -> None:
    """The gradient as in the original: dense network, features detached per image, one backward pass per pair."""
    images = torch.stack([view.image for views in batch for view in views])
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        heatmaps, raw = model(images)
    features: list[Features] = []
    for generator, logits in zip(generators, heatmaps[:, 0].float().split(3), strict=True):
        for points, log_p in sample_grid(logits, generator):
            x, y = points.unbind(1)
            descriptors = F.normalize(raw[len(features), :, y, x].T.float(), dim=1)
            features.append(Features(points.float(), descriptors, log_p))
    leaves = [
        replace(f, descriptors=f.descriptors.detach().requires_grad_(), scores=f.scores.detach().requires_grad_())
        for f in features
    ]
    for number, views in enumerate(batch):
        for i, j in combinations(range(3), 2):
            f1, f2 = leaves[3 * number + i], leaves[3 * number + j]
            distance = (2 - 2 * f1.descriptors @ f2.descriptors.T).clamp(min=1e-6).sqrt()
            affinity = -WEIGHTS.theta * distance
            log_p = affinity.log_softmax(0) + affinity.log_softmax(1)
            weight = (rewards(f1, f2, views[i], views[j]) * log_p.exp()).detach()
            earned = (weight * (log_p + f1.scores[:, None] + f2.scores[None])).sum()
            (-earned - WEIGHTS.keypoint * (f1.scores.sum() + f2.scores.sum())).backward()
    torch.autograd.backward(
        [t for f in features for t in (f.descriptors, f.scores)],
        [t.grad for f in leaves for t in (f.descriptors, f.scores)],
    )
