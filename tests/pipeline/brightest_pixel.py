"""An engine that finds one keypoint, at the brightest pixel of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from disk.features import Features
from disk.model.canvas import Canvas


class BrightestPixel:
    """Replaces the network: detects the brightest pixel of an image, to show how pixels are mapped."""

    name = "brightest pixel"
    bytes_per_pixel = 0

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def images_at_once(self, height: int, width: int) -> int:
        return 1

    def start(self, canvases: Sequence[Canvas], *others: Any) -> Callable[[], list[Features]]:
        self.sizes.append((len(canvases), *canvases[0].pixels.shape))
        found = []
        for canvas in canvases:
            y, x = divmod(int(canvas.pixels.int().sum(0).argmax()), canvas.pixels.shape[2])
            point = torch.tensor([[x, y]], dtype=torch.float32)
            found.append(Features(point, torch.ones(1, 128), torch.ones(1)))
        return lambda: found
