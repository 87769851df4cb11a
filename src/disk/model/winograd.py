"""The 5x5 convolution in Winograd's form F(4x4, 5x5): 64 products for 16 outputs instead of 400.

Y = A^T [(G g G^T) * (B^T d B)] A for an 8x8 window d of the input, a kernel g and a 4x4 tile Y of the output (Lavin and
Gray, "Fast algorithms for convolutional neural networks", CVPR 2016), by polynomial interpolation at 0, +-1, +-2, +-1/2
and infinity. Exact up to rounding, which is about four times that of the direct sum in float32.

Strips have channels innermost, so that products and transforms run over contiguous memory. A strip with k rows of tiles
of a map of width W has n = k (W/4 + 1) tiles: the last tile of each row lies in the margin, which spaces all tiles of
the strip evenly in memory; its result is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
import torch

from disk.model.strips import Workspace
from disk.shapes import Float, Tensor

TILE = 4
KERNEL = 5
MARGIN = KERNEL // 2  # zeros on each side of the map
_WINDOW = TILE + KERNEL - 1
_POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)  # and infinity


def transform_kernel(weight: Float[Tensor, "o c 5 5"]) -> Float[Tensor, "8 8 o c"]:
    """G g G^T, with gradients."""
    g = matrices(torch.float64)[1]
    # in float64, because it is small and its rounding would affect every product
    return torch.einsum("ia,jb,ocab->ijoc", g, g, weight.double()).to(weight.dtype).contiguous()


def transform_windows(strip: Float[Tensor, "rows w c"], workspace: Workspace) -> Iterator[Float[Tensor, "8 n c"]]:
    """B^T d B of each window of a strip with its margins (4 k + 4 rows, W + 4 columns): yields [j, tile] for each i.

    Each result overwrites the previous one.
    """
    b = matrices(strip.dtype)[2]
    height, width, channels = strip.shape
    rows, size = strip.view(height, width * channels), width * channels
    count = (height - TILE) // TILE
    columns = workspace.empty("columns", _WINDOW, count * size + TILE * channels)
    # the window in the right margin of the last row reads four columns too many
    columns[:, count * size :] = 0
    for k in range(count):
        torch.mm(b, rows[TILE * k : TILE * k + _WINDOW], out=columns[:, k * size : (k + 1) * size])
    tiles = count * width // TILE
    out = workspace.empty("windows", _WINDOW, tiles, channels)
    for i in range(_WINDOW):
        windows = columns[i].as_strided((tiles, _WINDOW, channels), (TILE * channels, channels, 1))
        # numpy, unlike torch, writes batched products straight to their places
        np.matmul(b.numpy(), windows.numpy(), out=out.transpose(0, 1).numpy())
        yield out


def transform_windows_adjoint(grad: Float[Tensor, "8 8 n c"], width: int) -> Float[Tensor, "rows w c"]:
    """The gradient of a strip of a map of this width, from those of its windows [i, j, tile], 0 in the margin."""
    b = matrices(grad.dtype)[2]
    tiles, channels = width // TILE + 1, grad.shape[3]
    count = grad.shape[2] // tiles
    columns = grad.new_empty(_WINDOW, count, tiles, TILE, channels)
    for i in range(_WINDOW):
        windows = torch.matmul(b.T, grad[i].transpose(0, 1)).view(count, tiles, _WINDOW, channels)
        columns[i] = windows[:, :, :TILE]
        columns[i, :, 1:] += windows[:, :-1, TILE:]
    strip = grad.new_zeros(TILE * count + TILE, tiles * TILE, channels)
    rows = strip.view(len(strip), -1)
    for k in range(count):
        rows[TILE * k : TILE * k + _WINDOW].addmm_(b.T, columns[:, k].view(_WINDOW, -1))
    return strip


def transform_products(
    products: Iterable[Float[Tensor, "8 n o"]], width: int, workspace: Workspace
) -> Float[Tensor, "k 4 t 4 o"]:
    """A^T m A of each tile of a map of this width, as a view [row of tiles, row, tile, column].

    products: yields [j, tile] for each i
    """
    for i, product in enumerate(products):
        a, (_, count, channels) = matrices(product.dtype)[0], product.shape
        columns = workspace.empty("columns of products", _WINDOW, TILE, count * channels)
        torch.mm(a, product.flatten(1), out=columns[i])
    rows = workspace.empty("rows of products", TILE, TILE * count * channels)
    torch.mm(a, columns.flatten(1).view(_WINDOW, -1), out=rows)
    return rows.view(TILE, TILE, -1, width // TILE + 1, channels)[:, :, :, :-1].permute(2, 0, 3, 1, 4)


def transform_products_adjoint(grad: Float[Tensor, "rows w o"]) -> Float[Tensor, "8 8 n o"]:
    """The gradient of the products of each tile, 0 for the tiles in the margin."""
    a = matrices(grad.dtype)[0]
    height, width, channels = grad.shape
    tiles = grad.new_zeros(TILE, TILE, height // TILE, width // TILE + 1, channels)
    tiles[:, :, :, :-1] = grad.unflatten(0, (-1, TILE)).unflatten(2, (-1, TILE)).permute(1, 3, 0, 2, 4)
    rows = torch.mm(a.T, tiles.view(TILE, -1)).view(_WINDOW, TILE, -1)
    return torch.matmul(a.T, rows).view(_WINDOW, _WINDOW, -1, channels)


@lru_cache
@torch.inference_mode(False)
def matrices(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """A^T (4, 8), G (8, 5) and B^T (8, 8) by the Toom-Cook construction.

    Not made in inference mode, because training uses the same cached tensors.
    """
    points = torch.tensor(_POINTS, dtype=torch.float64)
    at_infinity = torch.zeros(1, _WINDOW, dtype=torch.float64)
    at_infinity[0, -1] = 1
    a = torch.cat([points[None] ** torch.arange(TILE)[:, None], at_infinity[:, -TILE:].T], 1)
    g = torch.cat([points[:, None] ** torch.arange(KERNEL), at_infinity[:, -KERNEL:]])
    b = torch.zeros(_WINDOW, _WINDOW, dtype=torch.float64)
    for i in range(_WINDOW):
        others = [p for j, p in enumerate(_POINTS) if j != i]
        polynomial = torch.ones(1, dtype=torch.float64)
        for p in others:
            zero = polynomial.new_zeros(1)
            polynomial = torch.cat([zero, polynomial]) - p * torch.cat([polynomial, zero])
        b[i, : len(polynomial)] = polynomial
        if i < len(_POINTS):
            g[i] /= torch.tensor([_POINTS[i] - p for p in others]).prod()
    # scale by powers of two, which is exact, to keep the entries of B near 1
    balance = 2 ** b.abs().amax(1, keepdim=True).log2().round()
    return tuple(matrix.to(dtype) for matrix in (a, g * balance, b / balance))  # type: ignore[return-value]
