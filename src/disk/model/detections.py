"""The features of a batch on the device: padded to one number per image, in one tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from disk.features import Features
from disk.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class Detections:
    """Features of B images, best first, padded with zeros to K per image.

    packed: counts, keypoints, scores and descriptors in one tensor, so that one copy moves them between devices
    shape: (B, K, D)
    """

    packed: Float[Tensor, " _"]
    shape: tuple[int, int, int]

    @staticmethod
    def pack(
        keypoints: Float[Tensor, "b k 2"],
        scores: Float[Tensor, "b k"],
        descriptors: Float[Tensor, "b k d"],
        counts: Int[Tensor, " b"],
    ) -> Detections:
        """Pack the parts into one record, as float32, which represents the counts exactly."""
        parts = [part.float().flatten() for part in (counts, keypoints, scores, descriptors)]
        batch, count, dimension = descriptors.shape
        return Detections(torch.cat(parts), (batch, count, dimension))

    @staticmethod
    def unpack(packed: Float[Tensor, " _"], batch: int, dimension: int) -> Detections:
        """Make the record for a packed tensor, given the number of images and the length of descriptors."""
        return Detections(packed, (batch, (packed.numel() // batch - 1) // (3 + dimension), dimension))

    @property
    def counts(self) -> Int[Tensor, " b"]:
        """The number of features of each image; the other rows are padding."""
        return self._part(0).view(self.shape[0]).long()

    @property
    def keypoints(self) -> Float[Tensor, "b k 2"]:
        """(x, y) in pixels, as in `Features`."""
        return self._part(1).view(*self.shape[:2], 2)

    @property
    def scores(self) -> Float[Tensor, "b k"]:
        """Heatmap logits, above 0."""
        return self._part(2).view(self.shape[:2])

    @property
    def descriptors(self) -> Float[Tensor, "b k d"]:
        """Unit vectors."""
        return self._part(3).view(self.shape)

    def _part(self, index: int) -> Tensor:
        batch, count, dimension = self.shape
        return self.packed.split([batch, batch * count * 2, batch * count, batch * count * dimension])[index]

    def features(self) -> list[Features]:
        """The features of each image without padding, on the same device; waits for the counts."""
        counts = self.counts.tolist()
        parts = zip(self.keypoints, self.descriptors, self.scores, counts, strict=True)
        return [Features(*(part[:count] for part in image)) for *image, count in parts]

    def start_download(self) -> Callable[[], list[Features]]:
        """Queue the copy to CPU memory behind the device's pending work; call the returned function to wait for it."""
        if not self.packed.is_cuda:
            return Detections(self.packed.cpu(), self.shape).features
        host = torch.empty(self.packed.shape, dtype=self.packed.dtype, pin_memory=True)
        host.copy_(self.packed, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(self.packed.device))

        def wait() -> list[Features]:
            copied.synchronize()
            return Detections(host, self.shape).features()

        return wait
