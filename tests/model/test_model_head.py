"""The sparse head gives the result of the dense last block: values, gradients and statistics."""

import pytest
import torch
from torch.nn import functional as F

from disk.model import head, strips, upblock, winograd
from disk.model.disk import DISK
from disk.model.statistics import encode


def random_model(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    model = DISK().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.normal_(0, 0.3)
    return model


def points_with_borders(height, width, count=60):
    corners = torch.tensor([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1], [1, 2], [2, 1]])
    inner = torch.stack([torch.randint(0, width, (count,)), torch.randint(0, height, (count,))], 1)
    return torch.cat([corners, inner])


def dense(model, images, points):
    heatmap, raw = model(images)
    at = [F.normalize(raw[i, :, p[:, 1], p[:, 0]].T, dim=1) for i, p in enumerate(points)]
    return heatmap[:, 0], at


def sparse(model, images, points):
    encoding = model.encode(images)
    return model.heatmap(encoding), model.describe(encoding, points)


@pytest.mark.parametrize("size", [(16, 16), (16, 112), (96, 64), (240, 320)])
def test_equals_the_dense_formulation(size):
    model = random_model()
    images = torch.rand(2, 3, *size)
    points = [points_with_borders(*size), points_with_borders(*size, 5)]
    with torch.no_grad():
        expected, got = dense(model, images, points), sparse(model, images, points)
    torch.testing.assert_close(got[0], expected[0], atol=1e-4, rtol=0)
    for a, b in zip(got[1], expected[1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_gradients_equal_the_dense_formulation_in_float64():
    model = random_model(torch.float64)
    images = torch.rand(2, 3, 32, 48, dtype=torch.float64)
    points = [points_with_borders(32, 48), points_with_borders(32, 48, 9)]
    weights = (
        torch.randn(2, 32, 48, dtype=torch.float64),
        [torch.randn(len(p), 128, dtype=torch.float64) for p in points],
    )

    def gradients(formulation):
        heatmap, descriptors = formulation(model, images, points)
        loss = (heatmap * weights[0]).sum() + sum((d * w).sum() for d, w in zip(descriptors, weights[1], strict=True))
        return torch.autograd.grad(loss, list(model.parameters()))

    for got, expected in zip(gradients(sparse), gradients(dense), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)


def test_heatmap_passes_gradcheck_across_strips(monkeypatch):
    monkeypatch.setattr(strips, "STRIP_ELEMENTS", {"cpu": 1, "other": 1})  # one row of the coarse map per strip
    torch.manual_seed(1)
    half = torch.randn(1, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(1, 2, 8, 6, dtype=torch.float64, requires_grad=True)
    slope = torch.rand(5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 5, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.randn((), dtype=torch.float64, requires_grad=True)

    def heatmap(*inputs):
        return head.heatmap(encode(*inputs[:2]), *inputs[2:])

    assert torch.autograd.gradcheck(heatmap, (half, skip, slope, weight, bias))


def test_strips_do_not_change_the_result(monkeypatch):
    model = random_model()
    encoding = model.encode(torch.rand(1, 3, 64, 48))
    whole = model.heatmap(encoding)
    for elements in (1, 20_000):
        monkeypatch.setattr(strips, "STRIP_ELEMENTS", {"cpu": elements, "other": elements})
        torch.testing.assert_close(model.heatmap(encoding), whole, atol=1e-5, rtol=0)


def test_the_number_of_threads_changes_rounding_at_most(monkeypatch):
    monkeypatch.setattr(strips, "STRIP_ELEMENTS", {"cpu": 20_000, "other": 20_000})
    monkeypatch.setattr(upblock, "_TILES_AT_ONCE", 20)
    model, before = random_model(), torch.get_num_threads()
    found, image = [], torch.rand(3, 64, 96)
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            found.append(model.detect(image, n=None))
        finally:
            torch.set_num_threads(before)
    torch.testing.assert_close(found[0].keypoints, found[1].keypoints, atol=1e-3, rtol=0)
    torch.testing.assert_close(found[0].descriptors, found[1].descriptors)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 4)])
def test_statistics_of_the_upsampled_map_without_upsampling(size):
    half = torch.randn(2, 6, *size, dtype=torch.float64) + 3
    skip = torch.randn(2, 4, 2 * size[0], 2 * size[1], dtype=torch.float64)
    full = torch.cat([F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False), skip], 1)
    encoding = encode(half.clone(), skip.clone())
    expected = torch.rsqrt(full.var((2, 3), correction=0) + 1e-5)
    torch.testing.assert_close(encoding.scale, expected)
    torch.testing.assert_close(encoding.half.mean((2, 3)), torch.zeros(2, 6, dtype=torch.float64), atol=1e-12, rtol=0)


def test_a_batch_equals_its_images_one_by_one():
    model = random_model()
    images = torch.rand(3, 3, 48, 64)
    points = [points_with_borders(48, 64, k) for k in (3, 0, 8)]
    with torch.no_grad():
        heatmap, descriptors = sparse(model, images, points)
        for i in range(3):
            alone, described = sparse(model, images[i : i + 1], points[i : i + 1])
            torch.testing.assert_close(heatmap[i], alone[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(descriptors[i], described[0], atol=1e-5, rtol=0)


def test_no_points_give_no_descriptors():
    model = random_model()
    encoding = model.encode(torch.rand(1, 3, 16, 32))
    (nothing,) = model.describe(encoding, [torch.zeros(0, 2, dtype=torch.int64)])
    assert nothing.shape == (0, 128)


def test_half_precision_is_close():
    model = random_model()
    images = torch.rand(1, 3, 48, 64)
    points = [points_with_borders(48, 64)]
    with torch.no_grad():
        expected = sparse(model, images, points)
        with torch.autocast("cpu", torch.bfloat16):
            got = sparse(model, images, points)
    assert got[0].dtype == torch.float32
    torch.testing.assert_close(got[0], expected[0], atol=0.1, rtol=0.05)
    assert (got[1][0].float() * expected[1][0]).sum(1).min() > 0.99


def test_inference_leaves_no_state_that_breaks_training():
    winograd.matrices.cache_clear()
    model = random_model()
    image = torch.rand(3, 48, 64)
    model.detect(image)
    assert not any(matrix.is_inference() for matrix in winograd.matrices(torch.float64))
    model.heatmap(model.encode(image[None])).sum().backward()
    assert model.unet.path_up[1].conv[3].weight.grad.abs().max() > 0
