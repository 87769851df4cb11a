"""The records that every room exchanges."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from disk.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class Features:
    """Local features of one image.

    keypoints: (N, 2) float32, x right and y down in pixels; (0, 0) is the centre of the first pixel.
    descriptors: (N, D), unit length.
    scores: (N,), the heatmap logit of a detected keypoint, the log-probability of a sampled one.
    An image without features has N = 0.
    """

    keypoints: Float[Tensor, "n 2"]
    descriptors: Float[Tensor, "n d"]
    scores: Float[Tensor, " n"]

    def __len__(self) -> int:
        return self.keypoints.shape[0]

    def to(self, device: torch.device | str) -> Features:
        """The same features on another device."""
        return Features(self.keypoints.to(device), self.descriptors.to(device), self.scores.to(device))


@dataclass(frozen=True)
class Matches:
    """Matches between two images.

    indices: (K, 2) int64, rows (i, j): feature i of the first image matches feature j of the second; rising in i.
    distances: (K,) float32, Euclidean distance of the two descriptors.
    """

    indices: Int[Tensor, "k 2"]
    distances: Float[Tensor, " k"]

    def __len__(self) -> int:
        return self.indices.shape[0]

    def to(self, device: torch.device | str) -> Matches:
        """The same matches on another device."""
        return Matches(self.indices.to(device), self.distances.to(device))
