"""Pinhole cameras: projection and unprojection."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from disk.shapes import Float, Tensor


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: x_cam = R @ x_world + t, pixel = K @ x_cam up to scale.

    K: (3, 3) calibration in pixels; (0, 0) is the centre of the first pixel.
    R: (3, 3) rotation.
    t: (3,) translation.
    """

    K: Float[Tensor, "3 3"]
    R: Float[Tensor, "3 3"]
    t: Float[Tensor, " 3"]

    @property
    def centre(self) -> Float[Tensor, " 3"]:
        """Camera centre in world coordinates."""
        return -self.R.T @ self.t

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Camera:
        """Copy to another device or precision."""
        return Camera(*(part.to(device=device, dtype=dtype) for part in (self.K, self.R, self.t)))


def project(camera: Camera, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
    """Project world points to pixels and depths.

    The depth is the third camera coordinate. If it is not positive, the point is not in front of the camera and its
    pixel is meaningless (at depth 0, infinite or nan).
    """
    in_camera = points @ camera.R.T + camera.t
    depth = in_camera[:, 2]
    homogeneous = in_camera @ camera.K.T
    return homogeneous[:, :2] / homogeneous[:, 2:], depth


def unproject(camera: Camera, pixels: Float[Tensor, "n 2"], depth: Float[Tensor, " n"]) -> Float[Tensor, "n 3"]:
    """World points seen at pixels with given depths (third camera coordinate)."""
    rays = torch.linalg.solve(camera.K, _homogeneous(pixels).T).T
    in_camera = rays / rays[:, 2:] * depth[:, None]
    return (in_camera - camera.t) @ camera.R  # R^T x, written for rows


def relative_pose(camera1: Camera, camera2: Camera) -> tuple[Float[Tensor, "3 3"], Float[Tensor, " 3"]]:
    """cam2_from_cam1 as (R, t): x_cam2 = R @ x_cam1 + t."""
    R = camera2.R @ camera1.R.T
    return R, camera2.t - R @ camera1.t


def _homogeneous(pixels: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    return torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)
