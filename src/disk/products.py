"""Matrix products on a CPU, by the faster of torch's two libraries.

In fp32 `torch.bmm` uses MKL, which uses AVX-512 only on Intel CPUs. oneDNN also uses it on AMD's, but its linear layer
takes one matrix at a time. Which is faster depends on the CPU and the sizes, so `fastest` measures both when a product
of such sizes is first needed. (`torch.bmm` can also use oneDNN where bf16 is allowed inside fp32 products, but that is
a setting of the whole process, which a library must not change.)
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from functools import partial

import torch

from disk.fastest import fastest
from disk.shapes import Float, Tensor

Product = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]

_ROWS = 512  # of the products that are timed


def multiply(a: Float[Tensor, "n k"], b: Float[Tensor, "m k"]) -> Float[Tensor, "n m"]:
    """a b^T."""
    return product(a, b)(a[None], b[None], None)[0]


def product(a: Float[Tensor, "*b n k"], b: Float[Tensor, "*b m k"]) -> Product:
    """The fastest function for batched products of these sizes: (a, b, out or None) -> a b^T of each."""
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


def _power(size: int) -> int:
    """The next power of two, so that similar sizes are measured once."""
    return 1 << max(0, size - 1).bit_length()


@functools.cache
@torch.inference_mode()
def _fastest(batch: int, inner: int, columns: int, threads: int) -> Product:
    numbers = torch.Generator().manual_seed(0)
    a, b = (torch.rand(batch, rows, inner, generator=numbers) for rows in (_ROWS, columns))
    exact, out, ways = _by_bmm(a, b, None), torch.empty(batch, _ROWS, columns), {"torch.bmm": _by_bmm}
    with contextlib.suppress(AttributeError, RuntimeError):  # torch built without oneDNN, or another version of it
        _by_onednn(a, b, out)
        # oneDNN can be set to round to bf16, which would be off by a thousandth
        if torch.allclose(out, exact, rtol=1e-5, atol=0):
            ways["oneDNN"] = _by_onednn
    task = f"products, {batch} of {_ROWS}x{inner} by {inner}x{columns}"
    return ways[fastest(task, {name: partial(partial, way, a, b, out) for name, way in ways.items()})]
