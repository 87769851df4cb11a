"""Batches of pairs and the kernel, on the CPU: equal to pair by pair and to float64, with few operators."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from disk.errors import DiskError
from disk.matching import nearest
from disk.matching.nearest import _batches, _match_batch, mutual_nearest, mutual_nearest_pairs
from disk.matching.top_two import TopTwo, top_two_in_tiles, top_two_of_matrix

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []
TOLERANCE = 5e-6 if DEVICE == "cuda" else 1e-6  # tensor cores truncate sums

Pairs = list[tuple[torch.Tensor, torch.Tensor]]


def unit(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


def made_pairs(sizes: list[tuple[int, int]], d: int = 32, noise: float = 0.4) -> Pairs:
    """Each second image sees points of the first, including near and exact copies, and unrelated points."""
    pairs = []
    for seed, (n, m) in enumerate(sizes):
        d0 = unit(n, d, seed)
        seen = d0[torch.randint(n, (m,), generator=torch.Generator().manual_seed(seed))]
        d1 = torch.nn.functional.normalize(
            seen + noise / d**0.5 * unit(m, d, seed + 100) * (torch.arange(m) % 3)[:, None]
        )
        pairs.append((d0, d1))
    return pairs


def one_by_one(pairs: Pairs, ratio: float | None) -> list[list[list[int]]]:
    return [mutual_nearest(d0, d1, ratio).indices.tolist() for d0, d1 in pairs]


def as_a_batch(pairs: Pairs, ratio: float | None, entries: int = 1 << 20) -> list[list[list[int]]]:
    matches, counts = _match_batch(pairs, ratio, entries)
    assert sum(counts) == len(matches)
    return [part.tolist() for part in matches.indices.split(counts)]


@pytest.fixture
def by_kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[..., TopTwo]:
    pytest.importorskip("triton")
    from disk.matching.top_two_triton import ROUNDING, top_two_by_kernel

    monkeypatch.setattr(nearest, "_kernel", lambda device: (top_two_by_kernel, ROUNDING))
    return top_two_by_kernel


@pytest.mark.parametrize("ratio", [None, 0.9, 1.0])
@pytest.mark.parametrize("sizes", [[(50, 60)] * 3, [(50, 60), (40, 70), (64, 33), (1, 5), (3, 1)]])
def test_a_batch_equals_its_pairs_one_by_one(sizes, ratio):
    pairs = made_pairs(sizes)
    expected = one_by_one(pairs, ratio)
    assert sum(map(len, expected)) > 30
    assert as_a_batch(pairs, ratio) == expected
    assert as_a_batch(pairs, ratio, entries=100) == expected


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=5),
    noise=st.sampled_from([0.0, 1e-7, 0.3]),
    ratio=st.sampled_from([None, 0.8, 1.0]),
)
def test_padding_ties_and_near_ties_change_nothing(sizes, noise, ratio):
    pairs = made_pairs(sizes, 8, noise)
    assert as_a_batch(pairs, ratio) == one_by_one(pairs, ratio)


@pytest.mark.parametrize("kind", [torch.float16, torch.float64, torch.bfloat16])
def test_a_batch_of_other_precisions(kind):
    pairs = [(d0.to(kind), d1.to(kind)) for d0, d1 in made_pairs([(50, 60), (40, 70)])]
    assert as_a_batch(pairs, 0.95) == one_by_one(pairs, 0.95)


def test_a_batch_reports_invalid_descriptors():
    good, bad = made_pairs([(5, 6)])[0], made_pairs([(5, 7)])[0]
    with pytest.raises(DiskError, match=r"unit length, these have 0\.5 to 1"):
        _match_batch([good, (bad[0], 0.5 * bad[1])], None, 1000)
    bad[0][1, 2] = float("inf")
    with pytest.raises(DiskError, match="NaN or infinity"):
        _match_batch([good, bad], None, 1000)


def test_descriptors_of_half_length_are_refused_and_zeros_match_nothing():
    d = unit(5, 8, 0)
    with pytest.raises(DiskError, match="unit length"):
        mutual_nearest(d, d / 2)
    none = torch.cat([d, torch.zeros(2, 8)])
    assert mutual_nearest(d, none, 0.9).indices.tolist() == [[i, i] for i in range(5)]


def test_pairs_keep_their_order_and_may_be_empty():
    pairs = made_pairs([(30, 20), (5, 50), (30, 20)])
    pairs.insert(1, (unit(4, 32, 0), torch.empty(0, 32)))
    found = mutual_nearest_pairs(pairs, 0.95, device="cpu")
    assert [matches.indices.tolist() for matches in found] == one_by_one(pairs, 0.95)
    assert len(found[1]) == 0
    with pytest.raises(DiskError, match="length 32 and 8"):
        mutual_nearest_pairs([*pairs, (unit(3, 32, 0), unit(3, 8, 0))])


class _OnAGpu(torch.Tensor):
    """Descriptors that claim to be on a GPU, to test how pairs are batched."""

    device = torch.device("cuda")  # type: ignore[assignment]


@pytest.mark.parametrize("entries", [1, 3000, 10**6])
def test_pairs_of_similar_size_share_a_batch(entries):
    sizes = [(50, 60), (10, 10), (52, 58), (50, 61), (10, 9), (200, 3)]
    pairs = [tuple(d.as_subclass(_OnAGpu) for d in pair) for pair in made_pairs(sizes)]
    batches = list(_batches(range(len(pairs)), pairs, entries))
    assert sorted(itertools.chain(*batches)) == list(range(len(pairs)))
    for batch in batches:
        n, m = (max(sizes[i][side] for i in batch) for side in (0, 1))
        if len(batch) > 1:
            assert len(batch) * n * m <= entries
            assert sum(sizes[i][0] * sizes[i][1] for i in batch) >= 0.7 * len(batch) * n * m
    expected = {1: 6, 3000: 5, 10**6: 3}
    assert len(batches) == expected[entries]


def test_a_batch_has_no_more_pairs_than_a_grid_takes(monkeypatch):
    monkeypatch.setattr(nearest, "_MOST_PAIRS", 2)
    pairs = [tuple(d.as_subclass(_OnAGpu) for d in pair) for pair in made_pairs([(3, 4)] * 5)]
    assert [len(batch) for batch in _batches(range(5), pairs, 10**6)] == [2, 2, 1]


def test_a_batch_takes_no_more_operators_than_one_pair():
    class Count(TorchDispatchMode):
        operators = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.operators += 1
            return function(*args, **(kwargs or {}))

    def operators(pairs: Pairs) -> int:
        with Count() as count:
            _match_batch(pairs, 0.95, 1 << 20)
        return count.operators

    two, many = operators(made_pairs([(50, 60)] * 2)), operators(made_pairs([(50, 60)] * 16))
    assert two <= 130  # 76 that compute, views and allocations
    assert many <= two + 2 * 14  # one more view per image


def random_batch(b: int, n: int, m: int, d: int, kind: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(b * n + m)
    d0, d1 = (unit(b * size, d, seed).view(b, size, d).to(kind) for seed, size in enumerate((n, m)))
    counts = (torch.randint(1, size + 1, (b,), generator=generator) for size in (n, m))
    return d0, d1, *counts


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((1, 1, 1, 4), torch.float32), ((2, 70, 130, 32), torch.float32), ((3, 64, 65, 128), torch.float16),
     ((2, 5, 200, 48), torch.float32)],
)  # fmt: skip
def test_the_kernel_equals_plain_torch(by_kernel, shape, kind):
    d0, d1, counts0, counts1 = (tensor.to(DEVICE) for tensor in random_batch(*shape, kind))
    for counts in ((counts0, counts1), (None, None)):
        found = by_kernel(d0, d1, *counts)
        expected = top_two_of_matrix(d0.double(), d1.double(), *counts)
        torch.testing.assert_close(found.top, expected.top.float(), atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(found.second, expected.second.float(), atol=TOLERANCE, rtol=0)
        there = expected.top.isfinite()
        assert torch.equal(found.index[there], expected.index[there])


@pytest.mark.parametrize("half", [0, 1])
def test_the_kernel_takes_images_of_different_precision(by_kernel, half):
    """The image in single precision keeps its full precision."""
    d = [unit(40, 32, seed)[None].to(DEVICE) for seed in (0, 1)]
    d[half] = d[half].half()
    found, expected = by_kernel(*d, None, None), top_two_of_matrix(d[0].double(), d[1].double(), None, None)
    torch.testing.assert_close(found.top, expected.top.float(), atol=2 * TOLERANCE, rtol=0)
    assert torch.equal(found.index, expected.index)


def test_one_pair_in_tiles_equals_the_matrix():
    d0, d1 = unit(70, 16, 0), unit(90, 16, 1)
    tiles, matrix = top_two_in_tiles(d0, d1, 1024), top_two_of_matrix(d0[None], d1[None], None, None)
    torch.testing.assert_close(tiles.top, matrix.top)
    torch.testing.assert_close(tiles.second, matrix.second)
    assert torch.equal(tiles.index, matrix.index)


@pytest.mark.parametrize("noise", [0.0, 1e-7, 0.4])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_matches_by_the_kernel_are_exact(by_kernel, monkeypatch, kind, noise):
    pairs = [(d0.to(kind), d1.to(kind)) for d0, d1 in made_pairs([(50, 70), (40, 70), (64, 65)], noise=noise)]
    there = [(d0.to(DEVICE), d1.to(DEVICE)) for d0, d1 in pairs]
    found = {ratio: as_a_batch(there, ratio) for ratio in (None, 0.9, 1.0)}
    monkeypatch.undo()
    for ratio, matches in found.items():
        assert matches == one_by_one(pairs, ratio)


_COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from disk.matching.top_two_triton import _top_two_kernel as kernel

constants = {"SPLIT": True, "ROWS": 64, "COLUMNS": 64, "DEPTH": 128}
pointers = {"d0": "*fp32", "d1": "*fp32", "top": "*fp32", "second": "*fp32"}
pointers |= dict.fromkeys(("counts0", "counts1", "index"), "*i64") | dict.fromkeys(constants, "constexpr")
signature = {name: pointers.get(name, "i32") for name in kernel.arg_names}
for capability in (80, 90):
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    code = compiled.asm["ptx"]
    assert "mma" in code, "no tensor cores"
    assert ".local" not in code, "registers spill"
    assert compiled.metadata.shared < 96 << 10
"""


def test_the_kernel_compiles_for_gpus_that_are_not_present():
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run([sys.executable, "-c", _COMPILE], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("noise", [0.0, 1e-7, 0.4])
def test_a_gpu_equals_the_cpu(noise):
    pairs = made_pairs([(500, 700), (300, 200), (510, 690), (1, 3)], 128, noise)
    there = [(d0.cuda(), d1.cuda()) for d0, d1 in pairs]
    for entries in (None, 10_000):
        for ratio in (None, 0.9):
            found = mutual_nearest_pairs(there, ratio, entries, "cpu")
            assert [matches.indices.tolist() for matches in found] == one_by_one(pairs, ratio)
