"""The PReLU and 5x5 convolution of an up block on a CPU: in strips, by Winograd's method."""

from __future__ import annotations

from typing import Any

import torch

from disk.blocks import blocks
from disk.model import winograd
from disk.model.statistics import Encoding
from disk.model.strips import Strip, Workspace, large
from disk.model.winograd import MARGIN, TILE
from disk.products import product
from disk.shapes import Float, Tensor
from disk.workers import share

# a few megabytes; enough to make the cost of a call negligible
_TILES_AT_ONCE = 512


def convolve(
    encoding: Encoding,
    slope: Float[Tensor, " c"],
    weight: Float[Tensor, "o c 5 5"],
    bias: Float[Tensor, " o"],
) -> Float[Tensor, "b o h w"]:
    """The output of the block, channels innermost. Height and width must be multiples of 4."""
    kernel = winograd.transform_kernel(weight) * encoding.scale[:, None, None, None, :]
    return _Convolution.apply(encoding.half, encoding.skip, slope, kernel, bias)


class _Convolution(torch.autograd.Function):
    """The convolution in strips of rows of tiles; the backward pass rebuilds each strip.

    half (B, C1, H/2, W/2), skip (B, C2, H, W), slope (C1+C2,), kernel (B, 8, 8, O, C1+C2), bias (O,) -> (B, O, H, W).
    """

    @staticmethod
    def forward(ctx: Any, half: Tensor, skip: Tensor, slope: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(half, skip, slope, kernel)
        batch, _, height, width = skip.shape
        out = large(half, batch, height, width, len(bias))
        workspace = Workspace(half)

        def convolve(part: tuple[int, slice]) -> None:
            b, rows = part
            strip = Strip(half[b], skip[b], slope, rows, workspace, MARGIN)
            windows = winograd.transform_windows(strip.activation(), workspace)
            products = (_multiply(*pair, workspace) for pair in zip(windows, kernel[b], strict=True))
            tiles = winograd.transform_products(products, width, workspace)
            torch.add(tiles, bias, out=out[b, rows].view_as(tiles))

        share(convolve, [(b, rows) for b in range(batch) for rows in _strips(skip)], skip.device)
        return out.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        half, skip, slope, kernel = ctx.saved_tensors
        grad_half, grad_skip = torch.zeros_like(half), torch.zeros_like(skip)
        grad_slope, grad_kernel = torch.zeros_like(slope), torch.zeros_like(kernel)
        workspace = Workspace(half)
        for b in range(len(skip)):
            for rows in _strips(skip):
                strip = Strip(half[b], skip[b], slope, rows, workspace, MARGIN)
                products = winograd.transform_products_adjoint(grad[b, :, rows].permute(1, 2, 0))
                grad_windows = workspace.empty("gradient of windows", *products.shape[:3], len(slope))
                for i, windows in enumerate(winograd.transform_windows(strip.activation(), workspace)):
                    grad_kernel[b, i].baddbmm_(products[i].mT, windows)
                    product(products[i], kernel[b, i].mT)(products[i], kernel[b, i].mT, grad_windows[i])
                activation = winograd.transform_windows_adjoint(grad_windows, skip.shape[3])
                strip.backward(activation, grad_half[b], grad_skip[b], grad_slope)
        return grad_half, grad_skip, grad_slope, grad_kernel, grad.sum((0, 2, 3))


def _multiply(windows: Tensor, kernel: Tensor, workspace: Workspace) -> Tensor:
    out = workspace.empty("products", *windows.shape[:2], kernel.shape[1])
    return product(windows, kernel)(windows, kernel, out)


def _strips(skip: Tensor) -> list[slice]:
    _, _, height, width = skip.shape
    return blocks(height, TILE * max(1, _TILES_AT_ONCE // (width // TILE + 1)))
