"""Reads evaluation images upright, optionally degraded, and maps features back to the image as stored."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import torch

from disk.evaluation.ground_truth import View
from disk.features import Features
from disk.images.orientation import AS_STORED, turned, upright_points, upright_size
from disk.images.reading import Upright, image_orientation, image_size, read_image, read_upright
from disk.images.resizing import place


def read_view(view: View) -> Upright:
    """Read the image of a view upright, by the quarter turns in the ground truth if there are any, else by EXIF."""
    if view.turns:
        return Upright(read_image(view.path), AS_STORED).turned(view.turns)
    return read_upright(view.path)


def upright(view: View, features: Features) -> tuple[Features, tuple[int, int]]:
    """The features of a view in pixels of the upright image, and that image's (width, height)."""
    orientation = turned(AS_STORED, view.turns) if view.turns else image_orientation(view.path)
    size = image_size(view.path)
    keypoints = torch.from_numpy(upright_points(features.keypoints.numpy(), orientation, size))
    return Features(keypoints, features.descriptors, features.scores), upright_size(orientation, size)


def describe(image: Upright, detect: Callable[[np.ndarray, int], Features], n: int, max_size: int) -> Features:
    """Detect features in an image downscaled to `max_size`; returns them in pixels of the image as stored."""
    canvas, placement = place(image.pixels, max_size=max_size, orientation=image.orientation)
    found = detect(canvas, n)
    return Features(placement.to_original(found.keypoints), found.descriptors, found.scores)


def degrade(image: np.ndarray, seed: int) -> np.ndarray:
    """Degrade an image: gamma 2.2, half the contrast about its mean, noise of sigma 0.03 for values in [0, 1].

    The noise depends only on the seed and the image.
    image: (H, W, 3) uint8.
    """
    rng = np.random.default_rng([seed, zlib.crc32(image.tobytes())])
    dark = (image / 255.0) ** 2.2
    flat = dark.mean() + 0.5 * (dark - dark.mean())
    return np.clip(np.rint((flat + rng.normal(0, 0.03, image.shape)) * 255), 0, 255).astype(np.uint8)
