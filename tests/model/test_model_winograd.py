"""The 5x5 convolution by Winograd's method equals the direct one, up to rounding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from disk.model import upblock, winograd
from disk.model.statistics import Encoding
from disk.model.strips import Workspace


def direct(half, skip, scale, slope, weight, bias):
    """Upsampling, concatenation, PReLU, scale and convolution, densely."""
    up = F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False)
    activation = F.prelu(torch.cat([up, skip], 1), slope) * scale[:, :, None, None]
    return F.conv2d(activation, weight, bias, padding=2)


def random_block(batch, height, width, channels, dtype=torch.float64):
    one, two, out = channels
    return (
        torch.randn(batch, one, height // 2, width // 2, dtype=dtype),
        torch.randn(batch, two, height, width, dtype=dtype),
        torch.rand(batch, one + two, dtype=dtype) + 0.5,
        torch.rand(one + two, dtype=dtype),
        torch.randn(out, one + two, 5, 5, dtype=dtype),
        torch.randn(out, dtype=dtype),
    )


def ours(half, skip, scale, slope, weight, bias):
    return upblock.convolve(Encoding(half, skip, scale), slope, weight, bias)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 6), st.integers(1, 9),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)), st.integers(1, 20), st.integers(0, 2**31),
)  # fmt: skip
def test_equals_the_direct_convolution_at_any_size_and_strip(batch, rows, columns, channels, tiles, seed):
    torch.manual_seed(seed)
    block = random_block(batch, 4 * rows, 4 * columns, channels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upblock, "_TILES_AT_ONCE", tiles)
        torch.testing.assert_close(ours(*block), direct(*block), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("tiles", [1, 100])
def test_passes_gradcheck(tiles, monkeypatch):
    monkeypatch.setattr(upblock, "_TILES_AT_ONCE", tiles)
    torch.manual_seed(0)
    block = [t.requires_grad_() for t in random_block(1, 12, 8, (2, 1, 2))]
    assert torch.autograd.gradcheck(ours, block, fast_mode=True)


def test_rounding_in_float32_is_near_that_of_the_direct_sum():
    torch.manual_seed(0)
    block = random_block(1, 64, 96, (64, 32, 64))
    exact = direct(*block)
    single = [t.float() for t in block]
    error, usual = ((f(*single).double() - exact).abs().max() / exact.std() for f in (ours, direct))
    # bounds the loss of digits: the matrices' entries reach 8, and products of five points are summed
    assert error < 1e-4
    assert error < 20 * usual


def test_the_adjoints_are_adjoint():
    torch.manual_seed(0)
    like = torch.zeros((), dtype=torch.float64)
    strip = torch.randn(12, 20, 3, dtype=torch.float64)  # two rows of four tiles and the margins
    windows = torch.stack([each.clone() for each in winograd.transform_windows(strip, Workspace(like))])
    grad = torch.randn_like(windows)
    grad[:, :, 4::5] = 0
    windows = torch.where(grad == 0, 0, windows)
    left = (windows * grad).sum()
    torch.testing.assert_close(left, (strip * winograd.transform_windows_adjoint(grad.contiguous(), 16)).sum())

    products = torch.randn(8, 8, 10, 3, dtype=torch.float64)
    tiles = winograd.transform_products(products, 16, Workspace(like))
    grad = torch.randn(8, 16, 3, dtype=torch.float64)
    left = (tiles * grad.view(2, 4, 4, 4, 3)).sum()
    torch.testing.assert_close(left, (products * winograd.transform_products_adjoint(grad)).sum())
