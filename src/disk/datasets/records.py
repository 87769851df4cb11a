"""The record a training tuple is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from disk.geometry.camera import Camera
from disk.shapes import Float, Tensor


@dataclass(frozen=True)
class PosedImage:
    """An image with its camera, all on the pixel grid of `image`.

    image: (3, H, W), RGB in [0, 1]; zero in the padding at the right and the bottom.
    camera: K, R, t of this grid; (0, 0) is the centre of the first pixel and x_cam = R x_world + t.
    depth: (H, W), z in the camera's frame in the unit of t, 0 where unknown; None without a depth map.
    name: as in the data set, for messages.
    """

    image: Float[Tensor, "3 h w"]
    camera: Camera
    depth: Float[Tensor, "h w"] | None
    name: str

    def to(self, device: torch.device | str) -> PosedImage:
        """The same image on another device. Copies to a GPU do not wait for it."""
        ahead = torch.device(device).type == "cuda"

        def moved(part: Tensor) -> Tensor:
            return part.to(device, non_blocking=ahead)

        camera = Camera(*(moved(part) for part in (self.camera.K, self.camera.R, self.camera.t)))
        depth = None if self.depth is None else moved(self.depth)
        return PosedImage(moved(self.image), camera, depth, self.name)

    def pin_memory(self) -> PosedImage:
        """The same image in page-locked memory, for DataLoader."""
        depth = None if self.depth is None else self.depth.pin_memory()
        return PosedImage(self.image.pin_memory(), self.camera, depth, self.name)
