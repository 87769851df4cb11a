"""OpenCV's features."""

import numpy as np
import pytest
import torch
from evaluation_world import photo

from disk.errors import MissingExtraError
from disk.evaluation.baselines import detect_baseline


@pytest.mark.parametrize(("method", "length"), [("sift", 128), ("rootsift", 128), ("orb", 256)])
def test_baselines_have_unit_descriptors_best_first_at_most_n(method, length):
    image = photo(240, 320)
    found = detect_baseline(method, image, 100)
    assert 50 < len(found) <= 100
    assert found.descriptors.shape == (len(found), length)
    torch.testing.assert_close(torch.linalg.vector_norm(found.descriptors, dim=1), torch.ones(len(found)))
    assert (found.scores[:-1] >= found.scores[1:]).all()
    none = detect_baseline(method, np.zeros((64, 64, 3), np.uint8), 100)
    assert none.descriptors.shape == (0, length)


def test_rootsift_is_the_square_root_of_sift_and_orb_keeps_hamming_distances():
    image = photo(240, 320)
    sift, root = detect_baseline("sift", image, 50), detect_baseline("rootsift", image, 50)
    expected = torch.sqrt(sift.descriptors / sift.descriptors.sum(dim=1, keepdim=True))
    torch.testing.assert_close(root.descriptors, expected, atol=1e-5, rtol=1e-4)
    orb = detect_baseline("orb", image, 50).descriptors
    differing = (orb[0] != orb[1:]).sum(dim=1)
    torch.testing.assert_close(((orb[0] - orb[1:]) ** 2).sum(dim=1), differing / 64)


def test_baselines_need_opencv(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(MissingExtraError, match="baselines"):
        detect_baseline("sift", np.zeros((8, 8, 3), np.uint8), 10)
