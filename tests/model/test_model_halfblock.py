"""The up block in half precision is the direct convolution: exactly in double precision, else up to rounding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from disk.model import halfblock
from disk.model.statistics import Encoding


def direct(half, skip, scale, slope, weight):
    """Upsampling, concatenation, PReLU, scale and convolution, densely."""
    up = F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False)
    activation = F.prelu(torch.cat([up, skip], 1), slope) * scale[:, :, None, None]
    return F.conv2d(activation, weight, padding=2)


def random_block(batch, height, width, one, two, out):
    return (
        torch.randn(batch, one, height // 2, width // 2, dtype=torch.float64),
        torch.randn(batch, two, height, width, dtype=torch.float64),
        torch.rand(batch, one + two, dtype=torch.float64) + 0.5,
        torch.rand(one + two, dtype=torch.float64),
        torch.randn(out, one + two, 5, 5, dtype=torch.float64),
    )


def ours(half, skip, scale, slope, weight, dtype):
    return halfblock.convolve(Encoding(half, skip, scale), slope, weight, dtype)


@settings(max_examples=30)
@given(
    st.integers(1, 2), st.integers(1, 6), st.integers(1, 9),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)), st.integers(1, 500), st.integers(0, 2**31),
)  # fmt: skip
def test_equals_the_direct_convolution_at_any_size_and_strip(batch, rows, columns, channels, pixels, seed):
    torch.manual_seed(seed)
    block = random_block(batch, 4 * rows, 4 * columns, *channels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(halfblock, "_PIXELS_AT_ONCE", pixels)
        torch.testing.assert_close(ours(*block, torch.float64), direct(*block), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.013), (torch.float16, 0.0016), (torch.float32, 3e-6)])
def test_rounding_is_near_that_of_the_direct_sum(dtype, bound):
    block = random_block(1, 32, 48, 64, 32, 64)
    exact = direct(*block)
    got = ours(*(t.float() for t in block), dtype)
    assert got.dtype == torch.float32
    assert got.stride(1) == 1  # as `head.describe` reads it
    error, usual = ((x.double() - exact).std() / exact.std() for x in (got, direct(*(t.to(dtype) for t in block))))
    # each product is rounded twice before the sum of eight, whose weights reach 8
    assert error < bound
    assert error < 5 * usual
    assert (got - exact).abs().max() < 15 * bound * exact.std()
    # rounding has no direction: the mean of many outputs is much nearer
    assert (got - exact).mean().abs() < bound / 50 * exact.std()


def test_the_number_of_threads_changes_nothing(monkeypatch):
    monkeypatch.setattr(halfblock, "_PIXELS_AT_ONCE", 256)
    block = [t.float() for t in random_block(2, 32, 64, 8, 8, 8)]
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        results.append(ours(*block, torch.bfloat16))
    torch.set_num_threads(threads)
    assert torch.equal(*results)
