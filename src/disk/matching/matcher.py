"""Matchers by name, for both the pipeline and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch

from disk.errors import DiskError
from disk.features import Features, Matches
from disk.matching.lightglue import LightGlue
from disk.matching.nearest import mutual_nearest_pairs
from disk.shapes import Tensor

MatcherName = Literal["mnn", "lightglue"]
Size = tuple[int, int]
# the features of both images, and their (width, height) in pixels, which nearest neighbours do not need
ImagePair = tuple[Features, Features, Size | None, Size | None]
Matcher = Callable[[Sequence[ImagePair]], list[Matches]]


def make_matcher(
    name: MatcherName,
    device: torch.device,
    ratio: float | None = None,
    *,
    weights: tuple[Mapping[str, Tensor], Path] | None = None,
    half: bool = False,
    max_entries: int | None = None,
) -> Matcher:
    """A function that matches pairs of images on a device and returns the matches on the CPU.

    name: mnn: mutual nearest neighbours with a two-way ratio test, as in `mutual_nearest`; lightglue: the learned one
    ratio: for mnn; None: no ratio test
    weights: for lightglue, and the file they are from
    half: use mixed precision on a GPU, for lightglue
    max_entries: for mnn, as in `mutual_nearest`

    Raises DiskError for lightglue with a ratio or without weights, and the errors of LightGlue.
    """
    if name == "mnn":

        def nearest(pairs: Sequence[ImagePair]) -> list[Matches]:
            descriptors = [(f0.descriptors.to(device), f1.descriptors.to(device)) for f0, f1, *_ in pairs]
            return mutual_nearest_pairs(descriptors, ratio, max_entries, "cpu")

        return nearest
    if ratio is not None:
        raise DiskError("the ratio test is for nearest neighbours; leave it out with lightglue")
    if weights is None:
        raise DiskError("lightglue needs weights")
    network = LightGlue(weights[0], device, half, weights[1])

    def learned(pairs: Sequence[ImagePair]) -> list[Matches]:
        found = []
        for f0, f1, size0, size1 in pairs:
            if size0 is None or size1 is None:
                raise DiskError("lightglue needs the sizes of the images")
            found.append(network.match(f0, f1, size0, size1).cpu())
        return found

    return learned
