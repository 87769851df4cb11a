"""The record of which training tuples consist."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from disk.geometry.camera import Camera
from disk.shapes import Float, Tensor


@dataclass(frozen=True)
class PosedImage:
    """An image with its camera and depth, all on the same pixel grid.

    image: (3, H, W), RGB in [0, 1]; zero in the padding at the right and bottom.
    camera: K, R, t of this grid; (0, 0) is the centre of the first pixel and x_cam = R x_world + t.
    depth: (H, W), z in the camera's frame in units of t, 0 where unknown; None without a depth map.
    name: name in the data set, for messages.
    """

    image: Float[Tensor, "3 h w"]
    camera: Camera
    depth: Float[Tensor, "h w"] | None
    name: str

    def to(self, device: torch.device | str) -> PosedImage:
        """Copy to another device; copies to a GPU are asynchronous."""
        ahead = torch.device(device).type == "cuda"

        def moved(part: Tensor) -> Tensor:
            return part.to(device, non_blocking=ahead)

        camera = Camera(*(moved(part) for part in (self.camera.K, self.camera.R, self.camera.t)))
        depth = None if self.depth is None else moved(self.depth)
        return PosedImage(moved(self.image), camera, depth, self.name)

    def pin_memory(self) -> PosedImage:
        """Copy to page-locked memory, for DataLoader."""
        camera = Camera(*(part.pin_memory() for part in (self.camera.K, self.camera.R, self.camera.t)))
        depth = None if self.depth is None else self.depth.pin_memory()
        return PosedImage(self.image.pin_memory(), camera, depth, self.name)
