from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import log_softmax
from torch.nn.functional import normalize

from disk.matching.distribution import log_match_probability


def unit(n: int, d: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)


def test_equals_scipy() -> None:
    d0, d1 = unit(7), unit(5, seed=1)
    affinity = -20 * cdist(d0.numpy(), d1.numpy())
    expected = log_softmax(affinity, axis=0) + log_softmax(affinity, axis=1)
    np.testing.assert_allclose(log_match_probability(d0, d1, 20.0).numpy(), expected, rtol=1e-10)


def test_gradient_equals_that_of_a_plain_distance() -> None:
    d0, d1 = unit(6).requires_grad_(), unit(4, seed=1).requires_grad_()
    weight = torch.rand(6, 4, dtype=torch.float64)
    # through the normalisation, which is where descriptors come from
    a, b = normalize(d0, dim=1), normalize(d1, dim=1)
    ours = torch.autograd.grad((weight * log_match_probability(a, b, 15.0)).sum(), (d0, d1))
    affinity = -15 * (normalize(d0, dim=1)[:, None] - normalize(d1, dim=1)[None]).pow(2).sum(2).sqrt()
    plain = (weight * (affinity.log_softmax(0) + affinity.log_softmax(1))).sum()
    for mine, reference in zip(ours, torch.autograd.grad(plain, (d0, d1)), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_finite_for_equal_descriptors(dtype: torch.dtype) -> None:
    d0 = unit(5).to(dtype).requires_grad_()
    log_p = log_match_probability(d0, d0.detach().clone(), 50.0)
    log_p.sum().backward()
    assert log_p.isfinite().all()
    assert d0.grad is not None
    assert d0.grad.isfinite().all()


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0), (1, 1)])
def test_empty_and_single(n: int, m: int) -> None:
    log_p = log_match_probability(unit(n), unit(m), 15.0)
    assert log_p.shape == (n, m)
    assert (log_p == 0).all()  # one feature on each side: they match for certain
