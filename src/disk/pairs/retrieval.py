"""Pairs of images that look alike, by VLAD of their local descriptors.

Jégou et al., Aggregating local descriptors into a compact image representation (CVPR 2010), with the residuals
of each visual word normalised as in Arandjelović and Zisserman, All about VLAD (CVPR 2013).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch.nn.functional import normalize

from disk.blocks import blocks
from disk.features import Features
from disk.options import check_minimum
from disk.pairs.choose import Pair
from disk.progress import track
from disk.shapes import Float, Int, Tensor

_WORDS = 64
_SAMPLE = 50_000  # descriptors, from all images together, that the visual words are learned from
_ITERATIONS = 20
_BATCH = 32  # images described at once
_BLOCK = 1024  # images compared with all others at once


@runtime_checkable
class FeatureSource(Protocol):
    """Features by image name, such as a FeatureStore or a cache of one."""

    @property
    def names(self) -> Sequence[str]:
        """All images."""

    def __getitem__(self, name: str) -> Features:
        """Features of one image."""


def retrieval(features: FeatureSource, top_k: int, seed: int = 0, only: Collection[str] | None = None) -> list[Pair]:
    """Pair each image with the `top_k` most similar others, but images without features with none.

    only: the images to find partners for, among all images; default: all
    seed: of the sample of descriptors that the visual words are learned from

    Raises DiskError for top_k below 1.
    """
    return _most_similar(features, top_k, seed, only=only)


def loop_closures(
    features: FeatureSource, places: Mapping[str, int], apart: int, top_k: int, seed: int = 0
) -> list[Pair]:
    """Pair each image of a sequence with the `top_k` most similar ones more than `apart` positions away.

    places: position of each image in the sequence

    Raises DiskError for top_k below 1.
    """
    return _most_similar(features, top_k, seed, places, apart)


def similar_images(queries: FeatureSource, database: FeatureSource, top_k: int, seed: int = 0) -> dict[str, list[str]]:
    """The `top_k` most similar database images of each query, the most similar first; none for one without features.

    The visual words are learned from the database.

    Raises DiskError for top_k below 1.
    """
    check_minimum("top_k", top_k, 1)
    found: dict[str, list[str]] = {name: [] for name in queries.names}
    words = _words(database, seed)
    if words is None:
        return found
    names, vectors = _describe(database, words)
    asked, wanted = _describe(queries, words)
    for some in blocks(len(asked), _BLOCK):
        nearest = (wanted[some] @ vectors.T).topk(min(top_k, len(names))).indices.tolist()
        found |= {name: [names[j] for j in row] for name, row in zip(asked[some], nearest, strict=True)}
    return found


def _words(features: FeatureSource, seed: int) -> Float[Tensor, "k d"] | None:
    """Visual words from a seeded sample of the descriptors; None if there are no descriptors."""
    generator = torch.Generator().manual_seed(seed)
    share = max(1, _SAMPLE // max(1, len(features.names)))
    samples = []
    for name in track(sorted(features.names), "sample descriptors", "image"):
        descriptors = features[name].descriptors
        if len(descriptors):
            chosen = torch.randperm(len(descriptors), generator=generator)[:share]
            samples.append(descriptors[chosen.to(descriptors.device)].float())
    return k_means(torch.cat(samples), _WORDS, generator) if samples else None


def _describe(features: FeatureSource, words: Float[Tensor, "k d"]) -> tuple[list[str], Float[Tensor, "b kd"]]:
    """The names of the images that have features, sorted, and a unit vector for each."""
    names: list[str] = []
    everything = sorted(features.names)
    vectors = words.new_empty(len(everything), words.numel())
    for some in track(blocks(len(everything), _BATCH), "describe images", "batch"):
        read = {name: features[name].descriptors.float() for name in everything[some]}
        batch = {name: descriptors for name, descriptors in read.items() if len(descriptors)}
        if batch:
            vectors[len(names) : len(names) + len(batch)] = vlad(list(batch.values()), words)
            names += batch
    return names, vectors[: len(names)]


def _most_similar(
    features: FeatureSource,
    top_k: int,
    seed: int,
    places: Mapping[str, int] | None = None,
    apart: int = 0,
    only: Collection[str] | None = None,
) -> list[Pair]:
    check_minimum("top_k", top_k, 1)
    words = _words(features, seed)
    if words is None:
        return []
    names, vectors = _describe(features, words)
    order = range(len(names)) if places is None else [places[name] for name in names]
    return _nearest_images(
        names, vectors, top_k, torch.tensor(order, dtype=torch.long), apart, names if only is None else only
    )


def _nearest_images(
    names: Sequence[str], vectors: Tensor, top_k: int, places: Int[Tensor, " b"], apart: int, only: Collection[str]
) -> list[Pair]:
    wanted = set(only)
    pairs = set()
    places = places.to(vectors.device)
    for some in blocks(len(names), _BLOCK):
        similarity = vectors[some] @ vectors.T
        # exclude the image itself and its neighbours in the sequence
        similarity.masked_fill_((places[some, None] - places).abs() <= apart, -torch.inf)
        best, nearest = similarity.topk(min(top_k, len(names)))
        # to the host at once: on a GPU, reading single numbers waits for each
        i, j = (best > -torch.inf).nonzero().unbind(1)
        for row, column in torch.stack([i, nearest[i, j]], 1).tolist():
            first, second = names[some.start + row], names[column]
            if first in wanted:
                pairs.add((min(first, second), max(first, second)))
    return sorted(pairs)


def vlad(images: Sequence[Float[Tensor, "_ d"]], words: Float[Tensor, "k d"]) -> Float[Tensor, "b kd"]:
    """A unit vector per image: residuals to the nearest visual word, summed per word, with each sum normalised."""
    descriptors = torch.cat(list(images))
    counts = torch.tensor([len(image) for image in images], device=words.device)
    image = torch.repeat_interleave(
        torch.arange(len(images), device=words.device), counts, output_size=len(descriptors)
    )
    nearest = _nearest(descriptors, words)
    residuals = words.new_zeros(len(images) * len(words), words.shape[1])
    residuals.index_add_(0, image * len(words) + nearest, descriptors - words[nearest])
    return normalize(normalize(residuals, dim=1).view(len(images), -1), dim=1)


def k_means(points: Float[Tensor, "n d"], k: int, generator: torch.Generator) -> Float[Tensor, "k2 d"]:
    """k centres (fewer if there are fewer points) by Lloyd's algorithm, from a random start."""
    start = torch.randperm(len(points), generator=generator)[:k]
    centres = points[start.to(points.device)]
    for _ in range(_ITERATIONS):
        nearest = _nearest(points, centres)
        counts = torch.bincount(nearest, minlength=len(centres))[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    # |x - c|^2 = |x|^2 - 2 x.c + |c|^2; the first term is the same for all c
    return torch.addmm(centres.square().sum(1) / 2, points, centres.T, alpha=-1).argmin(1)
