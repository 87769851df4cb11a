"""The features of a batch as the device finds them: padded to one count, in one piece of memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from disk.features import Features
from disk.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class Detections:
    """Features of B images, each padded to K with zeros, best first.

    packed: one piece of memory, which crosses between devices in one copy: counts, keypoints, scores, descriptors.
    shape: (B, K, D).
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
        """One record of the parts, as float32, which a count is exact in."""
        parts = [part.float().flatten() for part in (counts, keypoints, scores, descriptors)]
        batch, count, dimension = descriptors.shape
        return Detections(torch.cat(parts), (batch, count, dimension))

    @staticmethod
    def unpack(packed: Float[Tensor, " _"], batch: int, dimension: int) -> Detections:
        """The record of such a piece of memory, for images and descriptors of known number and length."""
        return Detections(packed, (batch, (packed.numel() // batch - 1) // (3 + dimension), dimension))

    @property
    def counts(self) -> Int[Tensor, " b"]:
        """How many of an image's K are features."""
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
        """The features of each image, without padding, on the device where they are; waits for the counts."""
        counts = self.counts.tolist()
        parts = zip(self.keypoints, self.descriptors, self.scores, counts, strict=True)
        return [Features(*(part[:count] for part in image)) for *image, count in parts]

    def start_download(self) -> Callable[[], list[Features]]:
        """Start the copy to this machine, behind the work queued on the device; call the result to wait for it."""
        if not self.packed.is_cuda:
            return Detections(self.packed.cpu(), self.shape).features
        host = torch.empty(self.packed.shape, pin_memory=True).copy_(self.packed, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(self.packed.device))

        def wait() -> list[Features]:
            copied.synchronize()
            return Detections(host, self.shape).features()

        return wait
