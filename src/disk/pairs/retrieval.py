"""Pairs of images that look alike, by VLAD of the images' own local descriptors.

Jégou et al., Aggregating local descriptors into a compact image representation (CVPR 2010), with the residuals
of each visual word normalised as in Arandjelović and Zisserman, All about VLAD (CVPR 2013).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch.nn.functional import normalize

from disk.errors import PairsError
from disk.features import Features
from disk.pairs.choose import Pair
from disk.progress import track
from disk.shapes import Float, Tensor

_WORDS = 64
_SAMPLE = 50_000  # descriptors from which the visual words are learned, of all images together
_ITERATIONS = 20


@runtime_checkable
class FeatureSource(Protocol):
    """Features by image name: a FeatureStore, or a cache of one."""

    @property
    def names(self) -> Sequence[str]:
        """All images."""

    def __getitem__(self, name: str) -> Features:
        """Features of one image."""


def retrieval(features: FeatureSource, top_k: int, seed: int = 0) -> list[Pair]:
    """Each image with the `top_k` most similar others; an image without features is paired with none.

    The visual words come from a seeded sample of these images' descriptors. Raises PairsError for top_k below 1.
    """
    if top_k < 1:
        raise PairsError(f"retrieving {top_k} images pairs nothing; choose at least 1")
    generator = torch.Generator().manual_seed(seed)
    share = max(1, _SAMPLE // max(1, len(features.names)))
    names, samples = [], []
    for name in track(sorted(features.names), "sample descriptors", "image"):
        descriptors = features[name].descriptors
        if len(descriptors):
            chosen = torch.randperm(len(descriptors), generator=generator)[:share]
            names.append(name)
            samples.append(descriptors[chosen.to(descriptors.device)].float())
    if len(names) < 2:
        return []
    words = k_means(torch.cat(samples), _WORDS, generator)
    vectors = torch.stack(
        [vlad(features[name].descriptors.float(), words) for name in track(names, "describe images", "image")]
    )
    pairs = set()
    for i, vector in enumerate(vectors):
        similarity = vectors @ vector
        similarity[i] = -torch.inf
        for j in similarity.topk(min(top_k, len(names) - 1)).indices.tolist():
            pairs.add((names[min(i, j)], names[max(i, j)]))
    return sorted(pairs)


def vlad(descriptors: Float[Tensor, "n d"], words: Float[Tensor, "k d"]) -> Float[Tensor, " kd"]:
    """Unit vector of the sums of residuals to the nearest visual words, each sum normalised."""
    nearest = _nearest(descriptors, words)
    residuals = torch.zeros_like(words).index_add_(0, nearest, descriptors - words[nearest])
    return normalize(normalize(residuals, dim=1).flatten(), dim=0)


def k_means(points: Float[Tensor, "n d"], k: int, generator: torch.Generator) -> Float[Tensor, "k2 d"]:
    """k centres (fewer if there are fewer points) by Lloyd's algorithm from a random start."""
    start = torch.randperm(len(points), generator=generator)[:k]
    centres = points[start.to(points.device)]
    for _ in range(_ITERATIONS):
        nearest = _nearest(points, centres)
        counts = torch.bincount(nearest, minlength=len(centres))[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    # |x - c|^2 = |x|^2 - 2 x.c + |c|^2, of which the first term is the same for all c
    return torch.addmm(centres.square().sum(1) / 2, points, centres.T, alpha=-1).argmin(1)
