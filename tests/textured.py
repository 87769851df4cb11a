"""Textured images, with keypoints everywhere."""

from __future__ import annotations

import numpy as np


def textured_photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (H, W, 3): random rectangles under mild noise, with corners everywhere."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 128.0)
    for _ in range(max(12, height * width // 300)):
        y, x = rng.integers(0, height), rng.integers(0, width)
        h, w = rng.integers(2, 3 + height // 4), rng.integers(2, 3 + width // 4)
        image[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
