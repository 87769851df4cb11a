"""The gradient of one batch: sampled keypoints, all pairs of each tuple, one backward pass through the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import torch

from disk.datasets.records import PosedImage
from disk.devices import send
from disk.model.detection import Sample, sample_cells
from disk.model.disk import DISK
from disk.rewards.terms import RewardOptions, pair_terms
from disk.shapes import Float, Int, Tensor
from disk.training.loss import PairGradients, pair_gradients
from disk.training.network import lean, whole
from disk.training.schedule import Weights


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a step maximises.

    weights: weights of the epoch.
    threshold: maximum error of a correct match in pixels.
    visibility: test for occlusion and for points behind a camera.
    epipolar: do not use depth.
    share: fraction of the grid cells that may have a keypoint at no extra cost, 0 for all; beyond it, a keypoint costs
    up to the mean reward of the keypoints of its image.
    """

    weights: Weights
    threshold: float = 1.5
    visibility: bool = True
    epipolar: bool = False
    share: float = 0.0

    @property
    def rewards(self) -> RewardOptions:
        """The options that concern matches."""
        return RewardOptions(
            positive=self.weights.positive,
            negative=self.weights.negative,
            threshold=self.threshold,
            visibility=self.visibility,
            epipolar=self.epipolar,
        )


@dataclass(frozen=True)
class Totals:
    """Sums over some batches: expected rewards, matches and correct matches of all pairs, and counts."""

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
    objective: Objective,
    *,
    bf16: bool = False,
    together: bool | None = None,
) -> Float[Tensor, " 6"]:
    """Add the gradient of the negative reward, summed over all pairs of each tuple, to the parameters' gradients.

    Returns the fields of `Totals` on the device.
    generators: random generator for the keypoints of each tuple.
    bf16: run the network in bfloat16.
    together: process all tuples at once, without loops over images or pairs, as a GPU needs; False processes tuples and
    pairs one by one, which takes less memory and, on a CPU, no more time. Default: True on a CUDA GPU.
    """
    if together is None:
        together = next(model.parameters()).device.type == "cuda"
    tuples = [(views, generator) for views, generator in zip(batch, generators, strict=True) if len(views) > 0]
    groups = [tuples] if together else [[each] for each in tuples]
    with measured_convolutions():
        return torch.stack([_accumulate(model, group, objective, bf16, together) for group in groups if group]).sum(0)


@contextmanager
def measured_convolutions() -> Iterator[None]:
    """Let cuDNN measure which of its algorithms is fastest, once per size: all batches have the same size."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _accumulate(
    model: DISK,
    tuples: list[tuple[Sequence[PosedImage], torch.Generator]],
    objective: Objective,
    bf16: bool,
    together: bool,
) -> Float[Tensor, " 6"]:
    lengths = [len(views) for views, _ in tuples]
    views = [view for tuple_, _ in tuples for view in tuple_]
    images = torch.stack([view.image for view in views])
    heatmap, describe = (whole if together else lean)(model, images, bf16)
    sample = sample_cells(heatmap, [(generator, len(tuple_)) for tuple_, generator in tuples])
    keypoints = _Keypoints.of(sample)
    descriptors = describe(keypoints.image, keypoints.points)

    pairs = _pairs(lengths)
    with torch.no_grad():
        gradients = _expectations(views, keypoints, descriptors.detach(), pairs, objective, together)
        sides = send(_sides(pairs, len(views)), images.device)
        of_descriptors = _per_image(gradients.descriptors1, gradients.descriptors2, sides)
        rewards = _per_image(gradients.rewards1, gradients.rewards2, sides)
        in_pairs = (sides < 2 * len(pairs)).sum(1, keepdim=True).to(rewards.dtype)
        rewards = rewards + objective.weights.keypoint * in_pairs
        if objective.share > 0:
            rewards = rewards - _price(rewards, keypoints, objective.share * sample.accepted.shape[1])
        of_scores = torch.zeros_like(sample.log_probability)
        of_scores[keypoints.image, keypoints.cell] = -keypoints.flat(rewards)

    outputs, grads = [sample.log_probability], [of_scores]
    # without keypoints, the descriptors have no graph
    if descriptors.requires_grad:
        outputs.append(descriptors)
        grads.append(keypoints.flat(of_descriptors))
    torch.autograd.backward(outputs, grads)
    sums = torch.stack([gradients.rewards1.sum(), gradients.matches.sum(), gradients.right.sum()])
    counts = torch.tensor([len(pairs), len(keypoints.image), len(views)], dtype=sums.dtype)
    return torch.cat([sums, send(counts, sums.device)])


@dataclass(frozen=True)
class _Keypoints:
    """The keypoints of a batch, sorted by image.

    counts: number of keypoints of each image.
    image: image of each keypoint.
    cell: grid cell of each keypoint.
    slot: index of each keypoint within the padded row of its image; zeros fill the rest of a row.
    points: pixel (x, y) of each keypoint.
    """

    counts: list[int]
    image: Int[Tensor, " k"]
    cell: Int[Tensor, " k"]
    slot: Int[Tensor, " k"]
    points: Int[Tensor, "k 2"]

    @staticmethod
    def of(sample: Sample) -> _Keypoints:
        """The accepted keypoints of a sample."""
        image, cell = torch.nonzero(sample.accepted, as_tuple=True)
        slot = (sample.accepted.cumsum(1) - 1)[image, cell]
        return _Keypoints(sample.accepted.sum(1).tolist(), image, cell, slot, sample.points[image, cell])

    def rows(self, flat: Float[Tensor, k * rest]) -> Float[Tensor, "i n *rest"]:
        """Convert an array with one entry per keypoint to one with a padded row per image."""
        rows = flat.new_zeros(len(self.counts), max(self.counts), *flat.shape[1:])
        rows[self.image, self.slot] = flat
        return rows

    def flat(self, rows: Float[Tensor, "i n *rest"]) -> Float[Tensor, k * rest]:
        """The inverse of `rows`."""
        return rows[self.image, self.slot]


def _expectations(
    views: list[PosedImage],
    keypoints: _Keypoints,
    descriptors: Float[Tensor, "k d"],
    pairs: list[tuple[int, int]],
    objective: Objective,
    together: bool,
) -> PairGradients:
    device, dtype = descriptors.device, views[0].image.dtype
    has_depth = [view.depth is not None for view in views]
    depth = descriptors.new_full(keypoints.image.shape, torch.nan, dtype=dtype)
    if any(has_depth):
        shape = views[0].image.shape[1:]
        maps = [view.depth if view.depth is not None else view.image.new_zeros(shape) for view in views]
        x, y = keypoints.points.unbind(1)
        found = torch.stack(maps)[keypoints.image, y, x].to(dtype)
        depth = torch.where(found > 0, found, torch.nan)
    first, second = send(torch.tensor(pairs, dtype=torch.int64).view(-1, 2), device).unbind(1)
    terms = pair_terms(
        [view.camera for view in views],
        keypoints.rows(keypoints.points.to(dtype)),
        keypoints.rows(depth),
        send(torch.tensor(has_depth), device),
        first,
        second,
        objective.rewards,
    )
    rows = keypoints.rows(descriptors)
    counts1, counts2 = ([keypoints.counts[pair[side]] for pair in pairs] for side in (0, 1))
    return pair_gradients(rows[first], rows[second], counts1, counts2, terms, objective.weights.theta, together)


def _price(rewards: Float[Tensor, "i n"], keypoints: _Keypoints, free: float) -> Float[Tensor, "i 1"]:
    """Cost of each keypoint of an image: 0 for up to `free` keypoints, rising to their mean reward at twice as many.

    A cost shared by all keypoints of an image teaches the network which of them are worth more than others. As it falls
    to 0 when there are few keypoints, it cannot remove them all.
    """
    counts = send(torch.tensor(keypoints.counts, dtype=rewards.dtype), rewards.device)[:, None]
    inside = torch.arange(rewards.shape[1], device=rewards.device) < counts
    mean = torch.where(inside, rewards, 0.0).sum(1, keepdim=True) / counts.clamp(min=1)
    return mean.clamp(min=0) * (counts / free - 1).clamp(0, 1)


def _pairs(lengths: list[int]) -> list[tuple[int, int]]:
    """All pairs of images within each tuple; images are numbered consecutively over all tuples."""
    pairs: list[tuple[int, int]] = []
    first = 0
    for length in lengths:
        pairs += combinations(range(first, first + length), 2)
        first += length
    return pairs


def _sides(pairs: list[tuple[int, int]], images: int) -> Int[Tensor, "i v"]:
    """Pairs of each image: p if it is first in pair p, len(pairs) + p if second; padded with 2 len(pairs)."""
    sides: list[list[int]] = [[] for _ in range(images)]
    for number, (i, j) in enumerate(pairs):
        sides[i].append(number)
        sides[j].append(len(pairs) + number)
    most = max(len(own) for own in sides)
    rows = [own + [2 * len(pairs)] * (most - len(own)) for own in sides]
    return torch.tensor(rows, dtype=torch.int64).view(images, most)


def _per_image(
    one: Float[Tensor, "p n *rest"], two: Float[Tensor, "p n *rest"], sides: Int[Tensor, "i v"]
) -> Float[Tensor, "i n *rest"]:
    """Sum over the pairs of each image in a fixed order, which `index_add_` on a GPU does not guarantee."""
    both = torch.cat([one, two, one.new_zeros(1, *one.shape[1:])])
    total = one.new_zeros(len(sides), *one.shape[1:])
    for column in sides.unbind(1):
        total += both[column]
    return total


def tuple_generator(
    seed: int, number: int, purpose: Literal["keypoints", "augmentation"], device: torch.device
) -> torch.Generator:
    """Random generator for one training tuple. It depends only on its arguments, so a stopped run resumes exactly."""
    sequence = np.random.SeedSequence([seed, number, ("keypoints", "augmentation").index(purpose)])
    return torch.Generator(device).manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
