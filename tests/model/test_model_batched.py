"""The batched formulation compared with the dense network in float64: values and gradients."""

import pytest
import torch
from torch.nn import functional as F

from disk.model import batched
from disk.model.disk import DISK
from disk.model.kernels import plain


def random_model(seed=0):
    """In float64, with slopes and biases that matter."""
    torch.manual_seed(seed)
    model = DISK(desc_dim=24).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.normal_(0, 0.3)
    return model


def some_points(batch, height, width, count=20):
    """Image indices (N,) and pixels (N, 2), including corners."""
    corners = torch.tensor([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1], [1, 2], [2, 1]])
    points = torch.cat([corners, torch.rand(count, 2).mul(torch.tensor([width, height])).long()])
    return torch.arange(len(points)) % batch, points


def dense(model, images, image, points):
    heatmap, raw = model(images)
    x, y = points.unbind(1)
    return heatmap[:, 0], F.normalize(raw[image, :, y, x], dim=1)


def fast(model, images, image, points, dtype):
    layout = batched.lay_out(model.unet, dtype)
    maps = batched.trunk(layout, images.to(dtype))
    return batched.heatmap(layout, maps), batched.describe(layout, maps, image, points)


@pytest.mark.parametrize("size", [(16, 16), (16, 112), (48, 32)])
def test_equals_the_dense_network(size):
    model, images, at = random_model(), torch.rand(2, 3, *size, dtype=torch.float64), some_points(2, *size)
    with torch.no_grad():
        expected, got = dense(model, images, *at), fast(model, images, *at, torch.float64)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 0.02), (torch.bfloat16, 0.15)])
def test_lower_precisions_are_close(dtype, tolerance):
    model, images, at = random_model(), torch.rand(2, 3, 32, 48, dtype=torch.float64), some_points(2, 32, 48)
    with torch.no_grad():
        expected, got = dense(model, images, *at), fast(model, images, *at, dtype)
    assert got[0].dtype == got[1].dtype == torch.float32
    torch.testing.assert_close(got[0].double(), expected[0], atol=tolerance * expected[0].std().item(), rtol=0)
    assert (got[1] - expected[1]).norm(dim=1).max() < tolerance


def test_gradients_equal_those_of_the_dense_network():
    model, images, at = random_model(), torch.rand(2, 3, 16, 32, dtype=torch.float64), some_points(2, 16, 32)
    weights = [torch.randn_like(out) for out in dense(model, images, *at)]

    def gradients(outputs):
        loss = sum((out * weight).sum() for out, weight in zip(outputs, weights, strict=True))
        return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)

    ours, theirs = gradients(fast(model, images, *at, torch.float64)), gradients(dense(model, images, *at))
    for (name, _), got, expected in zip(model.named_parameters(), ours, theirs, strict=True):
        if got is None:  # a bias that the normalisation cancels
            assert name.endswith("bias")
            assert expected.abs().max() < 1e-10
        else:
            torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)


def test_only_the_last_bias_matters():
    model, images, at = random_model(), torch.rand(1, 3, 16, 32, dtype=torch.float64), some_points(1, 16, 32)
    with torch.no_grad():
        before = dense(model, images, *at)
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and "path_up.3" not in name:
                parameter.add_(torch.randn_like(parameter))
        after = dense(model, images, *at)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def test_statistics_survive_a_mean_far_from_zero():
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64) + torch.tensor([300.0, -900.0]).view(1, 2, 1, 1)
    full = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    scale = torch.rsqrt(full.var((2, 3), correction=0) + 1e-5)
    got = plain.upsampled_norm(x.float())
    torch.testing.assert_close(got[:, 0].double(), scale, rtol=1e-4, atol=0)


def test_any_size_is_padded_and_bytes_become_fractions():
    model, pixels = random_model(), torch.randint(0, 256, (1, 3, 19, 33), dtype=torch.uint8)
    layout = batched.lay_out(model.unet, torch.float64)
    padded = F.pad(pixels, (0, 15, 0, 13)).double() / 255
    with torch.no_grad():
        expected = model(padded)[0][:, 0]
        torch.testing.assert_close(batched.heatmap(layout, batched.trunk(layout, pixels)), expected)
