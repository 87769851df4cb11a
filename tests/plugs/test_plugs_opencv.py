"""Features as OpenCV's keypoints and back."""

import numpy as np
import pytest
import torch

from disk.errors import DiskError
from disk.features import Features
from disk.plugs.opencv import from_opencv, to_opencv

cv2 = pytest.importorskip("cv2", reason="the extra `baselines` is not installed")


def made(n):
    generator = torch.Generator().manual_seed(0)
    descriptors = torch.nn.functional.normalize(torch.randn(n, 128, generator=generator), dim=1)
    return Features(
        torch.rand(n, 2, generator=generator) * 100, descriptors, torch.rand(n, generator=generator), (90, 80)
    )


def test_round_trip():
    features = made(7)
    keypoints, descriptors = to_opencv(features)
    assert all(isinstance(keypoint, cv2.KeyPoint) for keypoint in keypoints)
    back = from_opencv(keypoints, descriptors, (90, 80))
    for name, array in features.numpy().items():
        np.testing.assert_array_equal(back.numpy()[name], array)
    assert back.image_size == (90, 80)


def test_opencv_matches_them():
    """OpenCV's matcher accepts our features: every descriptor is nearest to itself."""
    keypoints, descriptors = to_opencv(made(9))
    matches = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(descriptors, descriptors[::-1].copy())
    assert sorted((m.queryIdx, m.trainIdx) for m in matches) == [(i, 8 - i) for i in range(9)]
    canvas = cv2.drawKeypoints(np.zeros((120, 120, 3), np.uint8), keypoints, None)
    assert canvas.any()


def test_no_keypoints_and_mismatched_numbers():
    assert to_opencv(made(0))[0] == []
    assert len(from_opencv([], None)) == 0
    with pytest.raises(DiskError, match=r"2 keypoints need descriptors \(2, D\), not \(3, 128\)"):
        from_opencv(to_opencv(made(2))[0], np.zeros((3, 128), np.float32))
    with pytest.raises(DiskError, match="2 keypoints need"):
        from_opencv(to_opencv(made(2))[0], None)
