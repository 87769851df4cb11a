"""The PReLU and 5x5 convolution of an up block on a processor: in strips, by Winograd's products."""

from __future__ import annotations

from typing import Any

import torch

from disk.blocks import blocks
from disk.model import winograd
from disk.model.statistics import Encoding
from disk.model.strips import Strip, Workspace
from disk.model.winograd import MARGIN, TILE
from disk.shapes import Float, Tensor

# a few megabytes, enough for the products to hide the cost of a call
_TILES_AT_ONCE = 256


def convolve(
    encoding: Encoding,
    slope: Float[Tensor, " c"],
    weight: Float[Tensor, "o c 5 5"],
    bias: Float[Tensor, " o"],
) -> Float[Tensor, "b o h w"]:
    """The block's output, channels innermost. Height and width are multiples of 4."""
    kernel = winograd.transform_kernel(weight) * encoding.scale[:, None, None, :, None]
    return _Convolution.apply(encoding.half, encoding.skip, slope, kernel, bias)


class _Convolution(torch.autograd.Function):
    """The convolution in strips of rows of tiles; the backward pass rebuilds each strip.

    half (B, C1, H/2, W/2), skip (B, C2, H, W), slope (C1+C2,), kernel (B, 8, 8, C1+C2, O), bias (O,) -> (B, O, H, W).
    """

    @staticmethod
    def forward(ctx: Any, half: Tensor, skip: Tensor, slope: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(half, skip, slope, kernel)
        batch, _, height, width = skip.shape
        out = half.new_empty(batch, height, width, len(bias))
        workspace = Workspace(half)
        for b in range(batch):
            for rows in _strips(skip):
                strip = Strip(half[b], skip[b], slope, rows, workspace, MARGIN)
                windows = winograd.transform_windows(strip.activation(), workspace)
                products = workspace.empty("products", 8, 8, windows.shape[1], len(bias))
                for i in range(8):
                    torch.bmm(windows[i].transpose(0, 1), kernel[b, i], out=products[i])
                tiles = winograd.transform_products(products, width, workspace)
                torch.add(tiles, bias, out=out[b, rows].view_as(tiles))
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
                windows = winograd.transform_windows(strip.activation(), workspace)
                products = winograd.transform_products_adjoint(grad[b, :, rows].permute(1, 2, 0))
                grad_windows = workspace.empty("gradient of windows", 8, 8, *windows.shape[1::2])
                for i in range(8):
                    grad_kernel[b, i].baddbmm_(windows[i].permute(1, 2, 0), products[i])
                    torch.bmm(products[i], kernel[b, i].transpose(1, 2), out=grad_windows[i])
                activation = winograd.transform_windows_adjoint(grad_windows, skip.shape[3])
                strip.backward(activation, grad_half[b], grad_skip[b], grad_slope)
        return grad_half, grad_skip, grad_slope, grad_kernel, grad.sum((0, 2, 3))


def _strips(skip: Tensor) -> list[slice]:
    _, _, height, width = skip.shape
    return blocks(height, TILE * max(1, _TILES_AT_ONCE // (width // TILE + 1)))
