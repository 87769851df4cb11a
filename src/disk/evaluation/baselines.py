"""The features everyone compares with, by OpenCV: SIFT, RootSIFT and ORB."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from disk.errors import require
from disk.features import Features

# every image shall give as many keypoints as are asked for; with the usual 0.04 a third of them is missing
_CONTRAST = 0.0


def detect_baseline(method: str, image: np.ndarray, n: int) -> Features:
    """The n best features of an image (H, W, 3) uint8 RGB; scores are OpenCV's response.

    sift: 128 numbers, unit length. rootsift: their square roots after division by their sum (Arandjelovic
    and Zisserman, CVPR 2012). orb: its 256 bits as +-1/16, so that the squared distance is the Hamming distance / 64.
    Raises MissingExtraError without OpenCV.
    """
    cv2: Any
    require("cv2")
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    detector = cv2.ORB_create(n) if method == "orb" else cv2.SIFT_create(n, contrastThreshold=_CONTRAST)
    found, raw = detector.detectAndCompute(grey, None)
    width = 256 if method == "orb" else 128
    if raw is None:
        return Features(torch.zeros(0, 2), torch.zeros(0, width), torch.zeros(0))
    scores = np.array([keypoint.response for keypoint in found], np.float32)
    # OpenCV keeps more than n when the last ones are tied
    best = np.argsort(-scores, kind="stable")[:n]
    keypoints = np.array([keypoint.pt for keypoint in found], np.float32)[best]
    descriptors = torch.from_numpy(_DESCRIPTORS[method](raw[best]))
    return Features(torch.from_numpy(keypoints), descriptors, torch.from_numpy(scores[best]))


def _sift(raw: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(raw, axis=1, keepdims=True)
    return (raw / np.maximum(length, 1e-9)).astype(np.float32)


def _rootsift(raw: np.ndarray) -> np.ndarray:
    # of unit length, as the numbers under the roots add up to 1
    return np.sqrt(raw / np.maximum(raw.sum(axis=1, keepdims=True), 1e-9)).astype(np.float32)


def _orb(raw: np.ndarray) -> np.ndarray:
    bits = np.unpackbits(raw, axis=1).astype(np.float32)
    return (bits * 2 - 1) / 16


_DESCRIPTORS = {"sift": _sift, "rootsift": _rootsift, "orb": _orb}
