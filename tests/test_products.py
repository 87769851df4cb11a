"""Matrix products are the same by every library, and the chosen one is correct."""

import pytest
import torch

from disk import products
from disk.products import multiply, product

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN")
WAYS = [products._by_bmm, products._by_onednn]


@pytest.fixture(autouse=True)
def forget():
    products._fastest.cache_clear()
    yield
    products._fastest.cache_clear()


@pytest.mark.parametrize("shape", [(7, 5, 3), (64, 96, 25), (1, 1, 1), (0, 5, 3), (5, 4, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equals_the_product_in_double_precision(shape, dtype):
    n, k, m = shape
    a, b = torch.randn(n, k).to(dtype), torch.randn(m, k).to(dtype)
    got = multiply(a, b)
    assert got.dtype == dtype
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(got.double(), a.double() @ b.double().T, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_fills_a_batch_and_accepts_strided_matrices(way):
    a, b = torch.randn(4, 9, 2, 6)[:, :, 0], torch.randn(4, 6, 5).mT
    out = torch.empty(4, 9, 5)
    expected = torch.einsum("bnk,bmk->bnm", a.double(), b.double()).float()
    torch.testing.assert_close(way(a, b, out), expected)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(way(a, b, None), expected)


def test_the_faster_way_is_used_and_measured_once(monkeypatch):
    measured = []

    def fastest(task, ways):
        measured.append(task)
        assert list(ways) == ["torch.bmm", "oneDNN"]
        for prepare in ways.values():
            prepare()()
        return "oneDNN"

    monkeypatch.setattr(products, "fastest", fastest)
    a, b = torch.randn(9, 6), torch.randn(5, 6)
    assert product(a, b) is products._by_onednn
    assert product(a[:4], b[:5]) is products._by_onednn
    assert len(measured) == 1


def rounds(a, b, out):
    return out.copy_(torch.bmm(a.bfloat16(), b.mT.bfloat16()))


def fails(a, b, out):
    raise RuntimeError("no oneDNN")


@pytest.mark.parametrize("way", [rounds, fails])
def test_a_way_that_rounds_or_fails_is_not_used(monkeypatch, way):
    monkeypatch.setattr(products, "_by_onednn", way)
    monkeypatch.setattr(products, "fastest", lambda task, ways: list(ways)[-1])
    assert product(torch.randn(9, 6), torch.randn(5, 6)) is products._by_bmm
