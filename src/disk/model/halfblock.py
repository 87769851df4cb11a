"""The PReLU and 5x5 convolution of an up block in half precision on a CPU: in strips, by F(4, 5) along columns.

This is Winograd's form for one axis: each window of 8 rows becomes 8 transformed rows, oneDNN convolves each with a
kernel of 1x5, and the 8 results give 4 rows of the output, with 10 products per output instead of 25. In bf16, the
result is off by 1.2 % of its standard deviation, the direct sum by 0.3 %. The form for both axes, as in
`disk.model.winograd`, needs fewer products, but is off by 5 %.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from disk.blocks import blocks
from disk.model.statistics import Encoding
from disk.model.strips import Strip, Workspace, large
from disk.model.winograd import MARGIN, TILE, matrices
from disk.shapes import Float, Tensor
from disk.workers import share

# a few megabytes; shorter strips compute more of their margins twice
_PIXELS_AT_ONCE = 1 << 13


def convolve(
    encoding: Encoding, slope: Float[Tensor, " c"], weight: Float[Tensor, "o c 5 5"], dtype: torch.dtype
) -> Float[Tensor, "b o h w"]:
    """The output of the block without its bias, which the next normalisation removes; channels innermost, float32.

    Without gradients. Height and width must be multiples of 4.
    dtype: of the products
    """
    batch, _, height, width = encoding.skip.shape
    kernels = [_transform_kernel(weight * scale[:, None, None], dtype) for scale in encoding.scale]
    out = large(encoding.skip, batch, height, width, len(weight))
    workspace, rounded = Workspace(encoding.skip), Workspace(encoding.skip.new_empty(0, dtype=dtype))
    a = matrices(dtype)[0]  # like B, exact in half precision

    def convolve(part: tuple[int, slice]) -> None:
        b, rows = part
        strip = Strip(encoding.half[b], encoding.skip[b], slope, rows, workspace, MARGIN)
        windows = _transform_windows(strip.activation(), rounded)
        products = [F.conv2d(x[None].permute(0, 3, 1, 2), y) for x, y in zip(windows, kernels[b], strict=True)]
        rows_of_products = torch.cat([product.permute(0, 2, 3, 1) for product in products])
        tiles = torch.mm(a, rows_of_products.flatten(1)).view(TILE, -1, width, len(weight))
        out[b, rows].unflatten(0, (-1, TILE)).copy_(tiles.transpose(0, 1))

    strips = blocks(height, TILE * max(1, _PIXELS_AT_ONCE // (TILE * width)))
    share(convolve, [(b, rows) for b in range(batch) for rows in strips], encoding.skip.device)
    return out.permute(0, 3, 1, 2)


def _transform_kernel(weight: Float[Tensor, "o c 5 5"], dtype: torch.dtype) -> list[Float[Tensor, "o c 1 5"]]:
    """G g for each column of the kernel."""
    g = matrices(weight.dtype)[1]
    kernels = torch.einsum("iy,ocyx->iocx", g, weight)[:, :, :, None].to(dtype)
    return [kernel.contiguous(memory_format=torch.channels_last) for kernel in kernels]


def _transform_windows(strip: Float[Tensor, "rows w c"], workspace: Workspace) -> Float[Tensor, "8 k w c"]:
    """B^T d for each window of 8 rows of a strip of 4 k + 4 rows."""
    rows = workspace.empty("strip", *strip.shape).copy_(strip).flatten(1)
    b, count = matrices(rows.dtype)[2], len(strip) // TILE - 1
    out = workspace.empty("windows", len(b), count, *strip.shape[1:])
    for k in range(count):
        torch.mm(b, rows[TILE * k : TILE * k + len(b)], out=out[:, k].flatten(1))
    return out
