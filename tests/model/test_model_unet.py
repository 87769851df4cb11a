"""The architecture equals the original's: the reference is kornia's DISK with the same weights."""

import pytest
import torch
from kornia.feature import DISK as KorniaDISK

from disk.model.disk import DISK
from disk.model.unet import InstanceNorm


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(3)
    ours, theirs = DISK().eval(), KorniaDISK().eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.ndim == 1:  # biases and slopes are all equal after initialisation
                parameter.normal_(0, 0.3)
    return ours, theirs


def test_number_of_parameters():
    assert sum(p.numel() for p in DISK().parameters()) == 1_092_369


@pytest.mark.parametrize("size", [(32, 32), (48, 80), (160, 96)])
def test_equals_kornia_with_our_weights(pair, size):
    ours, theirs = pair
    theirs.load_state_dict(ours.state_dict())
    images = torch.rand(2, 3, *size)
    with torch.no_grad():
        heatmap, descriptors = ours(images)
        expected_heatmap, expected_descriptors = theirs.heatmap_and_dense_descriptors(images)
    torch.testing.assert_close(heatmap, expected_heatmap, atol=1e-4, rtol=0)
    torch.testing.assert_close(descriptors, expected_descriptors, atol=1e-4, rtol=0)


def test_equals_kornia_with_its_weights():
    torch.manual_seed(4)
    ours, theirs = DISK(), KorniaDISK()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(1, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(images)[0], theirs.heatmap_and_dense_descriptors(images)[0], atol=1e-4, rtol=0)


def test_state_dict_names():
    names = set(DISK().state_dict())
    expected = {"unet.path_down.0.1.3.weight", "unet.path_down.0.1.3.bias"}
    expected |= {f"unet.path_down.{i}.1.{e}" for i in range(1, 5) for e in ("1.weight", "3.weight", "3.bias")}
    expected |= {f"unet.path_up.{i}.conv.{e}" for i in range(4) for e in ("1.weight", "3.weight", "3.bias")}
    assert names == expected


def test_smallest_image_and_other_descriptor_length():
    heatmap, descriptors = DISK(desc_dim=32)(torch.rand(1, 3, 16, 16))
    assert heatmap.shape == (1, 1, 16, 16)
    assert descriptors.shape == (1, 32, 16, 16)
    assert heatmap.isfinite().all()


def test_instance_norm_of_a_single_element_is_zero():
    # rounding of the mean is multiplied by one over the square root of eps
    assert InstanceNorm()(torch.rand(2, 3, 1, 1)).abs().max() < 1e-3
