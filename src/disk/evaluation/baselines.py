"""Baseline features from OpenCV: SIFT, RootSIFT and ORB."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from disk.errors import require
from disk.features import Features

# 0 fills the keypoint budget on every image; with the usual 0.04, a third of the keypoints is missing
_CONTRAST = 0.0


def detect_baseline(method: str, image: np.ndarray, n: int) -> Features:
    """Detect the n best features of an image; scores are OpenCV's response.

    sift has descriptors of 128 numbers with unit length. rootsift takes the square root of these after L1 normalisation
    (Arandjelovic and Zisserman, CVPR 2012). orb has 256 bits as +-1/16, so that the squared distance is the Hamming
    distance / 64.
    method: sift, rootsift or orb.
    image: (H, W, 3) uint8 RGB.
    n: keypoint budget.

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
    # OpenCV keeps more than n if the last scores are tied
    best = np.argsort(-scores, kind="stable")[:n]
    keypoints = np.array([keypoint.pt for keypoint in found], np.float32)[best]
    descriptors = torch.from_numpy(_DESCRIPTORS[method](raw[best]))
    return Features(torch.from_numpy(keypoints), descriptors, torch.from_numpy(scores[best]))


def _sift(raw: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(raw, axis=1, keepdims=True)
    return (raw / np.maximum(length, 1e-9)).astype(np.float32)


def _rootsift(raw: np.ndarray) -> np.ndarray:
    # unit length, because the numbers under the roots sum to 1
    return np.sqrt(raw / np.maximum(raw.sum(axis=1, keepdims=True), 1e-9)).astype(np.float32)


def _orb(raw: np.ndarray) -> np.ndarray:
    bits = np.unpackbits(raw, axis=1).astype(np.float32)
    return (bits * 2 - 1) / 16


_DESCRIPTORS = {"sift": _sift, "rootsift": _rootsift, "orb": _orb}
