"""The records that all parts of the package exchange."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch

from disk.shapes import Float, Int, Tensor

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False, repr=False)
class Features:
    """Local features of one image, best first; N = 0 for an image without features.

    keypoints: (N, 2) float32, x right and y down in pixels; (0, 0) is the centre of the first pixel.
    descriptors: (N, D), unit length.
    scores: (N,), heatmap logits of detected keypoints, log-probabilities of sampled ones.
    image_size: (width, height) of the image in pixels, if known.

    >>> import torch
    >>> features = Features(torch.zeros(3, 2), torch.eye(3), torch.tensor([3.0, 2.0, 1.0]), (640, 480))
    >>> features
    Features(n=3, dimensions=3, image_size=(640, 480))
    >>> len(features), len(features[:2]), features.numpy()["scores"].tolist()
    (3, 2, [3.0, 2.0, 1.0])
    """

    keypoints: Float[Tensor, "n 2"]
    descriptors: Float[Tensor, "n d"]
    scores: Float[Tensor, " n"]
    image_size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return self.keypoints.shape[0]

    def __repr__(self) -> str:
        n, dimensions = self.descriptors.shape
        return f"Features(n={n}, dimensions={dimensions}, image_size={self.image_size})"

    def __getitem__(self, rows: slice | Tensor) -> Features:
        """A subset of the features, by a slice, a mask (N,) or indices (K,)."""
        return replace(
            self, keypoints=self.keypoints[rows], descriptors=self.descriptors[rows], scores=self.scores[rows]
        )

    def to(self, device: torch.device | str) -> Features:
        """The same features on another device."""
        return replace(
            self,
            keypoints=self.keypoints.to(device),
            descriptors=self.descriptors.to(device),
            scores=self.scores.to(device),
        )

    def cpu(self) -> Features:
        """The same features on the CPU."""
        return self.to("cpu")

    def numpy(self) -> dict[str, np.ndarray]:
        """The three arrays by name: keypoints, descriptors, scores."""
        return {name: getattr(self, name).detach().cpu().numpy() for name in ("keypoints", "descriptors", "scores")}

    def as_dict(self, image_size: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """A batch of one image in the format of LightGlue, glue-factory and kornia.

        Keys: keypoints (1, N, 2), descriptors (1, N, D), keypoint_scores (1, N) and, if known, image_size (1, 2) as
        (width, height).
        image_size: (width, height) in pixels; default: that of the features
        """
        size = image_size or self.image_size
        batch = {
            "keypoints": self.keypoints[None],
            "descriptors": self.descriptors[None],
            "keypoint_scores": self.scores[None],
        }
        return batch | ({"image_size": self.keypoints.new_tensor([size])} if size else {})


@dataclass(frozen=True, eq=False, repr=False)
class Matches:
    """Matches between two images.

    indices: (K, 2) int64, rows (i, j): feature i of the first image matches feature j of the second; sorted by i.
    distances: (K,) float32, Euclidean distances between the descriptors.
    scores: (K,) float32, LightGlue's confidence from 0 to 1; None for nearest neighbours, which distances rank.
    points0, points1: (K, 2) float32, the matched keypoints in each image, in pixels; None where descriptors were
    matched without keypoints.

    >>> import torch
    >>> matches = Matches(torch.tensor([[0, 2], [1, 0]]), torch.tensor([0.1, 0.2]))
    >>> matches
    Matches(k=2)
    >>> len(matches), matches.numpy()["indices"].tolist()
    (2, [[0, 2], [1, 0]])
    """

    indices: Int[Tensor, "k 2"]
    distances: Float[Tensor, " k"]
    scores: Float[Tensor, " k"] | None = None
    points0: Float[Tensor, "k 2"] | None = None
    points1: Float[Tensor, "k 2"] | None = None

    def __len__(self) -> int:
        return self.indices.shape[0]

    def __repr__(self) -> str:
        return f"Matches(k={len(self)})"

    def to(self, device: torch.device | str) -> Matches:
        """The same matches on another device."""
        return Matches(**{name: tensor.to(device) for name, tensor in self._known().items()})

    def cpu(self) -> Matches:
        """The same matches on the CPU."""
        return self.to("cpu")

    def numpy(self) -> dict[str, np.ndarray]:
        """The fields that are not None, by name, as arrays."""
        return {name: tensor.cpu().numpy() for name, tensor in self._known().items()}

    def between(self, f0: Features, f1: Features) -> Matches:
        """The same matches, with the points of the two images' features."""
        i, j = self.indices.unbind(1)
        return replace(self, points0=f0.keypoints[i], points1=f1.keypoints[j])

    def _known(self) -> dict[str, Tensor]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}
