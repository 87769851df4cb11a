"""The padded record of a batch."""

import pytest
import torch

from disk.model.detections import Detections


def parts(device="cpu"):
    return [
        torch.randn(2, 4, 2, device=device),
        torch.randn(2, 4, device=device),
        torch.randn(2, 4, 5, device=device),
        torch.tensor([3, 0], device=device),
    ]


def check(detections, keypoints, scores, descriptors, counts):
    assert torch.equal(detections.counts, counts)
    assert torch.equal(detections.keypoints, keypoints)
    assert torch.equal(detections.scores, scores)
    assert torch.equal(detections.descriptors, descriptors)


def test_packed_parts_are_unpacked_unchanged():
    each = parts()
    detections = Detections.pack(*each)
    check(detections, *each)
    check(Detections.unpack(detections.packed, 2, 5), *each)
    nothing = Detections.pack(*(part[:, :0] for part in each[:3]), torch.zeros(2, dtype=torch.int64))
    assert Detections.unpack(nothing.packed, 2, 5).shape == (2, 0, 5)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_features_have_no_padding(device):
    keypoints, scores, descriptors, counts = parts(device)
    detections = Detections.pack(keypoints, scores, descriptors, counts)
    for first, second in (detections.features(), detections.start_download()()):
        assert (len(first), len(second)) == (3, 0)
        assert torch.equal(first.keypoints.cpu(), keypoints[0, :3].cpu())
        assert torch.equal(first.scores.cpu(), scores[0, :3].cpu())
        assert torch.equal(first.descriptors.cpu(), descriptors[0, :3].cpu())
    assert first.keypoints.device.type == "cpu"
