"""The cost of a batch on a GPU: launches that do not grow with it, and bounded memory."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
from disk.model.kernels import fused, plain
from script import load_script


@pytest.fixture(scope="module")
def launches():
    return load_script("benchmarks/launches.py")


def test_launches_do_not_grow_with_the_batch(launches):
    for operations, most in ((fused, 45), (plain, 450)):
        counts = [
            launches.costs(operations, launches.Options(batch=batch, height=32, width=48, n=9)).launches.total()
            for batch in (1, 3)
        ]
        assert counts[0] == counts[1] <= most


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_an_image_takes_at_most_250_megabytes(launches, precision):
    two = launches.costs(fused, launches.Options(batch=2, precision=precision))
    assert two.peak / 2 < 250e6
    assert two.peak / 2 < fused.BYTES_PER_PIXEL * 768 * 1024


def test_the_counted_memory_is_that_of_live_tensors(launches):
    with launches.Costs() as counted:
        x = torch.zeros(1000)
        x[10:].add_(1)
        del x
        y = torch.zeros(600).double()
    assert counted.peak == 600 * 4 + 600 * 8
    assert y.dtype == torch.float64
    assert counted.launches == {"zeros": 2, "add_": 1, "_to_copy": 1}
