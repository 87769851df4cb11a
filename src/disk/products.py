"""Products of matrices on a CPU, by the faster of torch's two libraries there.

Behind `torch.bmm` is MKL in fp32, which uses AVX-512 on Intel's processors alone; oneDNN uses it on AMD's too. Two ways
lead to oneDNN: its linear layer, one matrix at a time, and `torch.bmm` itself where bf16 is allowed as a step of fp32
products. oneDNN takes that step only on processors with AMX, where this way is found inexact and left out. Which way is
fastest depends on the processor and on the sizes, so it is measured, in a few milliseconds, where a product of such
sizes is first needed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from threading import Lock
from time import perf_counter
from typing import Any

import torch

from disk.shapes import Float, Tensor

Product = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]

_ROWS = 512  # of the products that are measured


def multiply(a: Float[Tensor, "n k"], b: Float[Tensor, "m k"]) -> Float[Tensor, "n m"]:
    """a b^T."""
    return product(a, b)(a[None], b[None], None)[0]


def product(a: Float[Tensor, "*b n k"], b: Float[Tensor, "*b m k"]) -> Product:
    """The fastest way to such products, for batches: (a, b, out or None) -> a b^T of each."""
    learns = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    if a.device.type != "cpu" or a.dtype != torch.float32 or learns or not a.numel() or not b.numel():
        return _by_bmm
    batch = 1 if a.ndim == 2 else len(a)
    return _fastest(batch, _power(a.shape[-1]), _power(min(b.shape[-2], _ROWS)), torch.get_num_threads())


def _by_bmm(a: Tensor, b: Tensor, out: Tensor | None) -> Tensor:
    return torch.bmm(a, b.mT) if out is None else torch.bmm(a, b.mT, out=out)


def _by_onednn(a: Tensor, b: Tensor, out: Tensor | None) -> Tensor:
    multiply = torch.ops.mkldnn._linear_pointwise.default
    products = [multiply(x, y, None, "none", [], "") for x, y in zip(a, b, strict=True)]
    if out is None:
        return products[0][None] if len(products) == 1 else torch.stack(products)
    return torch.cat(products, out=out.flatten(0, 1)).view_as(out)


def _by_onednn_in_batches(a: Tensor, b: Tensor, out: Tensor | None) -> Tensor:
    with _Allowed():
        return _by_bmm(a, b, out)


class _Allowed:
    """While any thread is in here, `torch.bmm` goes to oneDNN; the user's own setting comes back after."""

    _lock, _inside, _before = Lock(), 0, "none"

    def __enter__(self) -> None:
        with _Allowed._lock:
            if not _Allowed._inside:
                _Allowed._before = _settings().fp32_precision
                _settings().fp32_precision = "bf16"
            _Allowed._inside += 1

    def __exit__(self, *_: object) -> None:
        with _Allowed._lock:
            _Allowed._inside -= 1
            if not _Allowed._inside:
                _settings().fp32_precision = _Allowed._before


def _settings() -> Any:
    return torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


def _power(size: int) -> int:
    """The next power of two: sizes that are alike are measured once."""
    return 1 << max(0, size - 1).bit_length()


@functools.cache
@torch.inference_mode()
def _fastest(batch: int, inner: int, columns: int, threads: int) -> Product:
    numbers = torch.Generator().manual_seed(0)
    a, b = (torch.rand(batch, rows, inner, generator=numbers) for rows in (_ROWS, columns))
    exact, out, seconds = _by_bmm(a, b, None), torch.empty(batch, _ROWS, columns), {}
    for way in (_by_bmm, _by_onednn, _by_onednn_in_batches):
        try:
            way(a, b, out)
        except (AttributeError, RuntimeError):  # torch built without oneDNN, or another version of it
            continue
        # bf16 would be off by a thousandth
        if torch.allclose(out, exact, rtol=1e-5, atol=0):
            seconds[way] = min(_seconds(way, a, b, out) for _ in range(5))
    return min(seconds, key=lambda way: seconds[way])


def _seconds(way: Product, a: Tensor, b: Tensor, out: Tensor) -> float:
    start = perf_counter()
    way(a, b, out)
    return perf_counter() - start
