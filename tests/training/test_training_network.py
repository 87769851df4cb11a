"""The two forms of the network in a training step: image by image, and all at once."""

from __future__ import annotations

import pytest
import torch

from disk.model.disk import DISK
from disk.training import network
from disk.training.network import lean, whole


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("at_once", [3, 1 << 15])
def test_both_give_the_same(count: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heatmaps, and descriptors of any number of keypoints, with their gradients, in double precision."""
    monkeypatch.setattr(network, "_POINTS_AT_ONCE", at_once)
    torch.manual_seed(0)
    model = DISK(desc_dim=8).double()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    image = torch.arange(count) * 2 // max(count, 1)
    points = torch.randint(0, 32, (count, 2))
    found = []
    for form in (lean, whole):
        model.zero_grad()
        heatmap, describe = form(model, images, False)
        descriptors = describe(image, points)
        assert descriptors.shape == (count, 8)
        (heatmap.square().mean() + descriptors[:, 0].sum()).backward()
        norm = sum(p.grad.square().sum() for p in model.parameters() if p.grad is not None) ** 0.5
        found.append((heatmap, descriptors, norm))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
