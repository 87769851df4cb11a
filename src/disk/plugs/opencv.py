"""Conversion of features to and from lists of cv2.KeyPoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from disk.errors import DiskError, require
from disk.features import Features


def to_opencv(features: Features) -> tuple[list[Any], np.ndarray]:
    """Convert to (list of cv2.KeyPoint, float32 descriptors (N, D)), as `cv2.DISK.detectAndCompute` returns them.

    Pixel coordinates are the same in OpenCV; `response` is the score.

    Raises MissingExtraError without OpenCV.
    """
    require("cv2")
    import cv2

    arrays = features.numpy()
    keypoints = [
        cv2.KeyPoint(x, y, 1.0, -1.0, score)
        for (x, y), score in zip(arrays["keypoints"].tolist(), arrays["scores"].tolist(), strict=True)
    ]
    return keypoints, arrays["descriptors"].astype(np.float32)


def from_opencv(
    keypoints: Sequence[Any], descriptors: np.ndarray | None, image_size: tuple[int, int] | None = None
) -> Features:
    """Convert cv2.KeyPoints and their descriptors to features, in the same order; `response` becomes the score.

    descriptors: (N, D), used unchanged; None if there are no keypoints
    image_size: (width, height) in pixels

    Raises DiskError if the numbers of keypoints and descriptors differ.
    """
    points = np.array([keypoint.pt for keypoint in keypoints], np.float32).reshape(-1, 2)
    scores = np.array([keypoint.response for keypoint in keypoints], np.float32)
    if descriptors is None:  # OpenCV returns None for an image without keypoints
        descriptors = np.zeros((0, 128), np.float32)
    if descriptors.ndim != 2 or len(descriptors) != len(points):
        raise DiskError(f"{len(points)} keypoints need descriptors ({len(points)}, D), not {descriptors.shape}")
    values = torch.from_numpy(np.ascontiguousarray(descriptors, dtype=np.float32))
    return Features(torch.from_numpy(points), values, torch.from_numpy(scores), image_size)
