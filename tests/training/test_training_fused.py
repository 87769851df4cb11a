"""Triton kernels of the expectation over matches, compared with plain torch and a plain formula in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch.nn.functional import normalize

from disk.geometry.camera import Camera
from disk.rewards.matches import match_rewards
from disk.rewards.terms import RewardOptions, pair_terms
from disk.training import loss

pytest.importorskip("triton")
import triton
import triton.language as tl

from disk.training import fused
from disk.training.kernels import _reward

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []
THETA = 5.0
# exponential, root and division of a GPU are approximate in the last digits
TOLERANCE = 1e-5 if DEVICE.type == "cuda" else 1e-6


class Pairs:
    """Images of a wall at depth 2 by cameras in a row, the last without depth: pairs with some features on each side.

    A descriptor depends on the position on the wall, with noise, so that matches are correct and wrong.
    """

    def __init__(self, counts: tuple[int, ...], length: int = 20, options: RewardOptions = RewardOptions()) -> None:
        torch.manual_seed(0)
        most = max(counts)
        K = torch.tensor([[30.0, 0, 15.5], [0, 30.0, 15.5], [0, 0, 1]])
        self.cameras = [
            Camera(K.to(DEVICE), torch.eye(3, device=DEVICE), torch.tensor([0.1 * k, 0.02 * (k % 2), 0.0]).to(DEVICE))
            for k in range(len(counts))
        ]
        points = torch.randint(0, 32, (len(counts), most, 2)).float()
        depths = torch.tensor([2.0, 2.0, 2.3, torch.nan])[torch.randint(0, 4, points.shape[:2])]
        known = torch.tensor([True] * (len(counts) - 1) + [False])
        shift = torch.tensor([1.5, 0.3]) * torch.arange(len(counts))[:, None, None]
        place = ((points - shift) / 4).round() @ torch.tensor([1.0, 40.0])
        codes = torch.randn(4000, length)
        d = codes[place.long() + 2000] + 0.7 * torch.randn(*points.shape[:2], length)
        self.first, self.second = torch.tensor(list(combinations(range(len(counts)), 2))).to(DEVICE).unbind(1)
        self.d = normalize(d, dim=2).to(DEVICE)
        self.counts = torch.tensor(counts, device=DEVICE)
        self.terms = pair_terms(
            self.cameras, points.to(DEVICE), depths.to(DEVICE), known.to(DEVICE), self.first, self.second, options
        )

    def by_kernels(self, d: torch.Tensor) -> loss.PairGradients:
        counts = [self.counts[side].int() for side in (self.first, self.second)]
        return loss.PairGradients(*fused.pair_gradients(d[self.first], d[self.second], *counts, self.terms, THETA))

    def by_torch(self, d: torch.Tensor) -> loss.PairGradients:
        """In float64, except the rewards."""
        rewards = match_rewards(self.terms).double()
        counts = [self.counts[side] for side in (self.first, self.second)]
        d = d.double()
        return loss.expected_gradients(d[self.first], d[self.second], rewards, THETA, *counts)


def assert_close(found: loss.PairGradients, expected: loss.PairGradients, tolerance: float = TOLERANCE) -> None:
    for name, reference in vars(expected).items():
        assert getattr(found, name).shape == reference.shape
        difference = (getattr(found, name).double() - reference).norm().item()
        assert difference <= tolerance * reference.double().norm().item(), name


@pytest.mark.parametrize(
    "options",
    [
        RewardOptions(),
        RewardOptions(visibility=False, threshold=3.0),
        RewardOptions(epipolar=True, positive=0.7, negative=-0.3),
    ],
)
def test_equals_plain_torch(options: RewardOptions) -> None:
    """Sizes below, at and above a tile, none of them a multiple; images without features."""
    pairs = Pairs((67, 33, 0), options=options)
    expected = pairs.by_torch(pairs.d)
    assert expected.right.sum() > 0.05
    assert_close(pairs.by_kernels(pairs.d), expected)


@pytest.mark.parametrize("length", [9, 130])
def test_descriptors_of_any_length(length: int) -> None:
    pairs = Pairs((17, 23), length)
    assert_close(pairs.by_kernels(pairs.d), pairs.by_torch(pairs.d))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_descriptors_of_half_precision_are_used_directly(dtype: torch.dtype) -> None:
    pairs = Pairs((17, 23), 32)
    d = pairs.d.to(dtype)
    assert_close(pairs.by_kernels(d), pairs.by_torch(d))


def test_values_in_the_padding_do_not_matter() -> None:
    pairs = Pairs((17, 23, 5))
    expected = pairs.by_kernels(pairs.d)
    padding = torch.arange(23, device=DEVICE) >= pairs.counts[:, None]
    d = torch.where(padding[..., None], torch.full_like(pairs.d, torch.nan), pairs.d)
    one, two = (
        torch.where(padding[side][:, None], torch.nan, terms)
        for side, terms in ((pairs.first, pairs.terms.one), (pairs.second, pairs.terms.two))
    )
    pairs.terms = replace(pairs.terms, one=one, two=two)
    found = pairs.by_kernels(d)
    for name, value in vars(expected).items():
        assert torch.equal(getattr(found, name), value), name


@pytest.mark.skipif(DEVICE.type == "cuda", reason="pair_gradients runs the kernels on a GPU")
@pytest.mark.parametrize("counts", [(9, 9, 5), (5, 9, 9), (6, 6, 6)])
def test_pairs_together_where_one_side_or_none_is_padded(counts: tuple[int, ...]) -> None:
    pairs = Pairs(counts)
    sides = [pairs.counts[side].tolist() for side in (pairs.first, pairs.second)]
    found = loss.pair_gradients(pairs.d[pairs.first], pairs.d[pairs.second], *sides, pairs.terms, THETA, together=True)
    assert_close(found, pairs.by_torch(pairs.d), 1e-5)


def test_equal_descriptors_have_no_gradient_towards_each_other() -> None:
    pairs = Pairs((2, 2))
    pairs.d = torch.zeros_like(pairs.d)
    pairs.d[..., 0] = 1
    found = pairs.by_kernels(pairs.d)
    assert not found.descriptors1.any()
    assert not found.descriptors2.any()
    assert found.matches.item() == pytest.approx(1.0)


def test_descriptors_that_differ_by_rounding_have_no_gradient_towards_each_other() -> None:
    """Two orthogonal descriptors push only each other, although their length is the largest number below 1."""
    pairs = Pairs((2, 2))
    pairs.d[:] = torch.eye(2, 20, device=DEVICE) * (1 - 2.0**-23)
    found = pairs.by_kernels(pairs.d)
    assert found.descriptors1[0].diagonal().tolist() == [0, 0]
    assert found.descriptors1[0, 0, 1] != 0


@triton.jit
def rewards_kernel(
    one, two, n, m, slack, on_line, positive, negative, threshold, squared, out,
    VISIBILITY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """All rewards of one pair, as computed by the kernels."""
    i, j = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    found = _reward(
        one, two, i, j, n, m, n, m, tl.load(slack), tl.load(on_line), positive, negative, threshold, squared, VISIBILITY
    )
    tl.store(out + i * m + j, found, mask=(i < n) & (j < m))


@pytest.mark.parametrize("visibility", [True, False])
def test_rewards_in_a_tile_are_those_of_torch_bit_for_bit(visibility: bool) -> None:
    options = RewardOptions(visibility=visibility, threshold=1.7, positive=0.7, negative=-0.3)
    terms = Pairs((120, 120, 120), options=options).terms
    expected = match_rewards(terms)
    assert len(expected.unique()) == 3
    for p in range(3):
        found = torch.zeros_like(expected[p])
        rewards_kernel[1,](
            terms.one[p].contiguous(), terms.two[p].contiguous(), 120, 120, terms.slack[p : p + 1],
            terms.on_line[p : p + 1], 0.7, -0.3, 1.7, 1.7**2, found, visibility, 128, enable_fp_fusion=False,
        )  # fmt: skip
        assert torch.equal(found, expected[p])


def test_the_same_input_gives_the_same_bits() -> None:
    pairs = Pairs((17, 33))
    one, two = pairs.by_kernels(pairs.d), pairs.by_kernels(pairs.d)
    for name, value in vars(one).items():
        assert torch.equal(getattr(two, name), value)


def test_the_kernels_run_only_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere, or in float64, the same function uses plain torch."""
    pairs = Pairs((9, 7))
    arguments = (pairs.d[:1], pairs.d[1:], [9], [7], pairs.terms, THETA)
    assert loss.fusible(pairs.d) == pairs.d.is_cuda
    assert not loss.fusible(pairs.d.double())
    plain = loss.pair_gradients(*arguments)
    monkeypatch.setattr(loss, "fusible", lambda d: True)
    assert_close(loss.pair_gradients(*arguments), plain)


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from disk.training import kernels

constants = {"TERMS": 13, "VISIBILITY": True, "D": 128, "PART": 32, "ALL": 128, "ROWS": 64, "COLUMNS": 32}
numbers = ("theta", "floor2", "positive", "negative", "threshold", "squared")
for kernel in (kernels.log_sums_kernel, kernels.expectations_kernel, kernels.gradients_kernel):
    types = {
        name: "constexpr" if name in constants
        else "fp32" if name in numbers
        else "i32" if name in ("N", "M")
        else "*i32" if name.startswith("counts")
        else "*fp32"
        for name in kernel.arg_names
    }
    source = ASTSource(kernel, types, {name: constants[name] for name in types if name in constants})
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 8})
    print(kernel.__name__, compiled.metadata.shared)
"""


def test_the_kernels_compile_for_a_gpu() -> None:
    """The compiler rejects some code the interpreter accepts; no GPU needed. Every GPU has 48 kB of shared memory."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(int(line.split()[1]) <= 48 << 10 for line in done.stdout.splitlines())
    assert len(done.stdout.splitlines()) == 3
