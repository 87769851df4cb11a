"""Triton's kernels compared with their versions in plain torch; without a GPU they are interpreted on the CPU."""

import pytest
import torch
from torch.nn import functional as F

from disk.model.kernels import plain

pytest.importorskip("triton")
from disk.model.kernels import fused

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []
PRECISIONS = [(torch.float32, 1e-5), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)]
precisions = pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)


def maps(batch, channels, height, width, dtype=torch.float32, mean=0.0):
    x = torch.randn(batch, channels, height, width) + mean
    return x.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)


def norm(batch, channels):
    return torch.stack([torch.rand(batch, channels) + 0.5, torch.randn(batch, channels)], 1).to(DEVICE)


def slopes(channels):
    return torch.randn(channels, device=DEVICE)


def last_block(height, width, dtype, batch=2, channels=(6, 3)):
    """half, skip, their norms and the slope, with odd numbers of channels."""
    first, second = channels
    return (
        maps(batch, first, height // 2, width // 2, dtype),
        maps(batch, second, height, width, dtype),
        norm(batch, first),
        norm(batch, second),
        slopes(first + second),
    )


def in_float64(*tensors):
    return [tensor.double() for tensor in tensors]


def close(got, expected, tolerance):
    """To a tolerance relative to the largest magnitude."""
    assert got.shape == expected.shape
    difference = (got.double() - expected.double()).abs().max().item()
    assert difference <= tolerance * expected.double().abs().max().clamp(min=1).item()


@pytest.mark.parametrize("size", [(16, 16), (5, 70), (33, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_canvas_of_bytes_in_any_layout(size, dtype):
    height, width = size
    interleaved = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8, device=DEVICE).permute(0, 3, 1, 2)
    got, expected = fused.canvas(interleaved, dtype), plain.canvas(interleaved.contiguous(), dtype)
    assert got.shape[1:] == (8, height + -height % 16, width + -width % 16)
    assert got.is_contiguous(memory_format=torch.channels_last)
    # interpreted kernels truncate bfloat16 where others round
    rtol = {torch.float32: 1e-6, torch.float16: 0, torch.bfloat16: 2**-7}[dtype]
    torch.testing.assert_close(got, expected, atol=0, rtol=rtol)


def test_canvas_of_numbers():
    images = torch.rand(1, 3, 16, 20, device=DEVICE)
    assert torch.equal(fused.canvas(images, torch.float32), plain.canvas(images, torch.float32))


@precisions
@pytest.mark.parametrize("size", [(2, 2), (2, 10), (18, 26)])
def test_pooled(dtype, tolerance, size):
    x, slope = maps(2, 5, *size, dtype), slopes(5)
    expected = plain.pooled(*in_float64(x, slope))
    for operations in (fused, plain):
        got = operations.pooled(x, slope)
        # a single pixel leaves only rounding, which dividing by the standard deviation makes 300 times larger
        close(got[0], expected[0], max(tolerance, 1e-4) if size == (2, 2) else tolerance)
        close(got[1], expected[1], 1e-4)
        assert got[1].dtype == torch.float32


def test_runs_of_several_blocks_are_added_up(monkeypatch):
    monkeypatch.setattr(fused, "_RUNS", 3)
    x, slope = maps(2, 4, 40, 44), slopes(4)
    for got, expected in zip(fused.pooled(x, slope), plain.pooled(*in_float64(x, slope)), strict=True):
        close(got, expected, 1e-5)
    close(fused.upsampled_norm(x), plain.upsampled_norm(x.double()), 1e-5)


@precisions
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 10)])
def test_upsampled_norm(dtype, tolerance, size):
    x = maps(2, 5, *size, dtype)
    up = F.interpolate(x.double(), scale_factor=2, mode="bilinear", align_corners=False)
    scale = torch.rsqrt(up.var((2, 3), correction=0) + 1e-5)
    expected = torch.stack([scale, -up.mean((2, 3)) * scale], 1)
    for operations in (fused, plain):
        close(operations.upsampled_norm(x), expected, 1e-4)


@pytest.mark.parametrize("operations", [fused, plain], ids=["fused", "plain"])
def test_statistics_survive_a_mean_far_from_zero(operations):
    x = maps(1, 4, 12, 10, mean=torch.tensor([0.0, 300.0, -900.0, 4000.0]).view(4, 1, 1))
    for got, expected in (
        (operations.upsampled_norm(x), plain.upsampled_norm(x.double())),
        (operations.pooled(x, slopes(4))[1], plain.pooled(x.double(), slopes(4).double())[1]),
    ):
        torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=0)


@precisions
@pytest.mark.parametrize("size", [(2, 2), (6, 4), (10, 140)])
def test_activation(dtype, tolerance, size):
    block = last_block(*size, dtype)
    expected = plain.activation(*in_float64(*block))
    for operations in (fused, plain):
        got = operations.activation(*block)
        assert got.dtype == dtype
        close(got, expected, tolerance)


@precisions
@pytest.mark.parametrize("size", [(2, 2), (6, 4), (10, 140)])
def test_heatmap(dtype, tolerance, size):
    block = last_block(*size, dtype)
    taps, bias = (torch.randn(25, 9) / 15).to(DEVICE, dtype), torch.tensor(0.7, device=DEVICE)
    expected = plain.heatmap(*in_float64(*block, taps, bias))
    for operations in (fused, plain):
        got = operations.heatmap(*block, taps, bias)
        assert got.dtype == torch.float32
        close(got, expected, tolerance)


@precisions
@pytest.mark.parametrize("dimension", [24, 128])
def test_describe(dtype, tolerance, dimension):
    height, width = 8, 12
    block = last_block(height, width, dtype)
    matrix = (torch.randn(25 * 9, dimension) / 15).to(DEVICE, dtype)
    bias = torch.randn(dimension, device=DEVICE)
    # the corners and more pixels of both images, and entries without a keypoint, over several blocks
    pixels = torch.cat([torch.arange(0, 2 * height * width, 5), torch.tensor([-1, 0, 11, 95, 96, 191, -1])]).to(DEVICE)
    expected = plain.describe(*in_float64(*block, matrix, bias), pixels)
    for operations in (fused, plain):
        got = operations.describe(*block, matrix, bias, pixels)
        close(got, expected, tolerance)
        assert (got[pixels < 0] == 0).all()
    assert fused.describe(*block, matrix, bias, pixels[:0]).shape == (0, dimension)


@pytest.mark.parametrize("default", [torch.float64, torch.float16])
def test_single_precision_whatever_the_default_type(default):
    block, x, slope = last_block(6, 4, torch.float32), maps(1, 4, 4, 6), slopes(4)
    taps, matrix = torch.randn(25, 9, device=DEVICE) / 15, torch.randn(225, 16, device=DEVICE) / 15
    bias, biases, pixels = slopes(1)[0], slopes(16), torch.arange(9, device=DEVICE)
    sizes = torch.tensor([[6, 4]] * 2, dtype=torch.int32, device=DEVICE)

    def found():
        heatmap = fused.heatmap(*block, taps, bias)
        keys = fused.candidates(heatmap, sizes, 3).sort(descending=True).values
        placed = fused.place(keys, heatmap, sizes, True)[:2]
        described = fused.describe(*block, matrix, biases, pixels)
        return [heatmap, *placed, described, *fused.pooled(x, slope), fused.upsampled_norm(x)]

    expected, before = found(), torch.get_default_dtype()
    try:
        torch.set_default_dtype(default)
        got = found()
    finally:
        torch.set_default_dtype(before)
    for one, two in zip(got, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, two)


def test_the_window_of_a_point_equals_that_of_the_whole_activation():
    block = in_float64(*last_block(6, 10, torch.float32))
    matrix, bias = torch.randn(225, 7, dtype=torch.float64, device=DEVICE), torch.randn(7, device=DEVICE).double()
    weight = matrix.view(5, 5, 9, 7).permute(3, 2, 0, 1)
    dense = F.normalize(F.conv2d(plain.activation(*block), weight, bias, padding=2), dim=1)
    got = plain.describe(*block, matrix, bias, torch.arange(120, device=DEVICE))
    torch.testing.assert_close(got, dense.permute(0, 2, 3, 1).reshape(120, 7))
