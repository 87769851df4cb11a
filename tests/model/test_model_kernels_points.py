"""Suppression, the best n, sub-pixel positions and masks of a batch, compared with `detection` image by image."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from disk.model.batched import best
from disk.model.detection import nms, refine
from disk.model.kernels import plain

pytest.importorskip("triton")
from disk.model.kernels import fused

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []
both = pytest.mark.parametrize("operations", [plain, fused], ids=["plain", "fused"])

# few values, so that plateaus and ties are common
heatmaps = hnp.arrays(np.float32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9), elements=st.integers(-1, 3))


def in_batch(operations, heatmap, sizes, window, n, allowed=None, subpixel=False):
    """Keypoints and scores of each image."""
    heatmap, sizes = heatmap.to(DEVICE), torch.tensor(sizes, dtype=torch.int32, device=DEVICE)
    keys = operations.candidates(heatmap, sizes, window, None if allowed is None else allowed.to(DEVICE))
    keypoints, scores, pixels, counts = operations.place(best(keys, n), heatmap, sizes, subpixel)
    found = []
    for i, count in enumerate(counts.tolist()):
        assert not keypoints[i, count:].any()
        assert not scores[i, count:].any()
        assert (pixels[i, count:] == -1).all()
        if not subpixel:
            x, y = keypoints[i, :count].long().unbind(1)
            assert pixels[i, :count].tolist() == ((i * heatmap.shape[1] + y) * heatmap.shape[2] + x).tolist()
        found.append((keypoints[i, :count].cpu(), scores[i, :count].cpu()))
    return found


@both
@settings(max_examples=20, deadline=None)
@given(data=st.data(), heatmap=heatmaps, window=st.sampled_from([1, 3, 5, 7]), n=st.none() | st.integers(0, 9))
def test_equals_nms_of_each_image(operations, data, heatmap, window, n):
    heatmap = torch.from_numpy(heatmap)
    batch, height, width = heatmap.shape
    sizes = [(data.draw(st.integers(1, height)), data.draw(st.integers(1, width))) for _ in range(batch)]
    got = in_batch(operations, heatmap, sizes, window, n)
    for image, (h, w), (keypoints, scores) in zip(heatmap, sizes, got, strict=True):
        expected, expected_scores = nms(image[:h, :w], window, n)
        assert keypoints.tolist() == expected.tolist()
        assert scores.tolist() == expected_scores.tolist()


@both
def test_masks_exclude_pixels_that_still_suppress(operations):
    heatmap = torch.randn(2, 9, 14)
    allowed = torch.rand(2, 9, 14) < 0.5
    for image, mask, (keypoints, scores) in zip(
        heatmap, allowed, in_batch(operations, heatmap, [(9, 14)] * 2, 3, None, allowed), strict=True
    ):
        expected, expected_scores = nms(image, 3)
        kept = mask[expected[:, 1], expected[:, 0]]
        assert 0 < kept.sum() < len(kept)
        assert keypoints.tolist() == expected[kept].tolist()
        assert scores.tolist() == expected_scores[kept].tolist()


@both
def test_peaks_are_those_of_refine(operations):
    heatmap = torch.randn(2, 20, 300)
    sizes = [(20, 300), (13, 290)]
    for image, (h, w), (keypoints, _) in zip(
        heatmap, sizes, in_batch(operations, heatmap, sizes, 5, 500, subpixel=True), strict=True
    ):
        area = image[:h, :w]
        expected = refine(area, nms(area, 5)[0])
        assert (expected != expected.round()).any()
        # to the last digit of the coordinate, because a GPU's division is not exact
        torch.testing.assert_close(keypoints, expected, atol=1e-5, rtol=2.0**-23)


@both
def test_nothing_above_zero(operations):
    for n in (None, 4):
        for keypoints, _ in in_batch(operations, torch.full((2, 6, 7), -1.0), [(6, 7)] * 2, 5, n):
            assert keypoints.shape == (0, 2)
