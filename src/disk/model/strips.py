"""Strips of rows of the map that an up block convolves: the upsampled coarse map concatenated with the skip connection.

This map is by far the largest in the network; in strips that fit the cache, it is never in memory as a whole. Channels
are innermost, so that a CPU works on many of them at once and matrix products run over contiguous memory.
"""

from __future__ import annotations

import threading
from math import prod

import numpy as np
import torch
from torch.nn import functional as F

from disk.shapes import Float, Tensor


def large(like: Tensor, *shape: int) -> Tensor:
    """Allocate memory; on a CPU through numpy, which asks for huge pages where available, as torch does not."""
    if like.device.type != "cpu":
        return like.new_empty(shape)
    memory = np.empty(prod(shape) * like.dtype.itemsize, np.uint8)  # numpy has no bfloat16
    return torch.from_numpy(memory).view(like.dtype).view(shape)


class Workspace(threading.local):
    """Memory that each strip reuses, because the system would have to clear the pages of new memory.

    Each thread has one; on a CPU it keeps the memory for the next image.
    """

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._buffers = _kept_buffers(like.dtype) if like.device.type == "cpu" else {}

    def empty(self, name: str, *shape: int) -> Tensor:
        """A tensor whose contents last until the next call with this name."""
        size = prod(shape)
        if name not in self._buffers or len(self._buffers[name]) < size:
            with torch.inference_mode(False):  # training cannot use tensors made in inference mode
                self._buffers[name] = large(self._like, size)
        return self._buffers[name][:size].view(shape)


_threads = threading.local()


def _kept_buffers(dtype: torch.dtype) -> dict[str, Tensor]:
    buffers: dict[str, Tensor] = vars(_threads).setdefault(str(dtype), {})
    return buffers


# elements in a strip: a few megabytes, small compared with the maps and large enough to hide the cost of a call
STRIP_ELEMENTS = {"cpu": 1 << 20, "other": 1 << 26}


class Strip:
    """Some rows of one image's map before the PReLU, with a margin on every side that is zero outside the image.

    half (C1, H/2, W/2), skip (C2, H, W) -> `map` (rows + 2 margin, W + 2 margin, C1 + C2) of `slope`'s dtype.
    """

    def __init__(
        self,
        half: Float[Tensor, "c1 h2 w2"],
        skip: Float[Tensor, "c2 h w"],
        slope: Float[Tensor, " c"],
        rows: slice,
        workspace: Workspace,
        margin: int = 0,
    ) -> None:
        _, height, width = skip.shape
        self._split, self._margin, self._slope = half.shape[0], margin, slope
        self._input = slice(max(rows.start - margin, 0), min(rows.stop + margin, height))
        # the interpolation needs one more row of the coarse map on either side
        self._coarse = slice(max(self._input.start // 2 - 1, 0), min((self._input.stop + 1) // 2 + 1, height // 2))
        self._above = self._input.start - rows.start + margin
        self.map = workspace.empty("map", rows.stop - rows.start + 2 * margin, width + 2 * margin, len(slope))
        if margin:
            self.map[: self._above] = 0
            self.map[self._above + self._input.stop - self._input.start :] = 0
            self.map[:, :margin] = 0
            self.map[:, -margin:] = 0
        inner = self._inner(self.map)
        upsampled = workspace.empty("upsampled", 2 * (self._coarse.stop - self._coarse.start), width // 2, self._split)
        _upsample(half[:, self._coarse].permute(1, 2, 0).to(slope.dtype), upsampled)
        _upsample(upsampled[self._rows()].transpose(0, 1), inner[:, :, : self._split].transpose(0, 1))
        inner[:, :, self._split :] = skip[:, self._input].permute(1, 2, 0)

    def activation(self) -> Float[Tensor, "rows w c"]:
        """The map after the PReLU."""
        return F.prelu(self.map.flatten(0, 1), self._slope).view_as(self.map)

    def backward(
        self, grad: Tensor, half: Float[Tensor, "c1 h2 w2"], skip: Float[Tensor, "c2 h w"], slope: Float[Tensor, " c"]
    ) -> None:
        """Add to the gradients of half, skip and slope the contribution of the activation's gradient."""
        grad, x = self._inner(grad), self._inner(self.map)
        slope += (grad * x.clamp(max=0)).sum((0, 1))
        grad = torch.where(x > 0, grad, grad * self._slope)
        skip[:, self._input] += grad[:, :, self._split :].permute(2, 0, 1)
        rows = grad.new_zeros(2 * (self._coarse.stop - self._coarse.start), grad.shape[1] // 2, self._split)
        rows[self._rows()] = _upsample_adjoint(grad[:, :, : self._split].transpose(0, 1)).transpose(0, 1)
        half[:, self._coarse] += _upsample_adjoint(rows).permute(2, 0, 1)

    def _inner(self, strip: Tensor) -> Tensor:
        """A strip without the parts of its margins that lie outside the image."""
        rows = self._input.stop - self._input.start
        return strip[self._above : self._above + rows, self._margin : strip.shape[1] - self._margin]

    def _rows(self) -> slice:
        """The rows of the upsampled coarse map that are in the strip."""
        first = self._input.start - 2 * self._coarse.start
        return slice(first, first + self._input.stop - self._input.start)


def _upsample(x: Tensor, out: Tensor) -> None:
    """Bilinear x2 along the first axis."""
    out[0], out[-1] = x[0], x[-1]
    torch.lerp(x[1:], x[:-1], 0.25, out=out[2::2])
    torch.lerp(x[:-1], x[1:], 0.25, out=out[1:-1:2])


def _upsample_adjoint(grad: Tensor) -> Tensor:
    even, odd = grad[0::2], grad[1::2]
    out = (even + odd).mul_(0.75)
    out[:-1].add_(even[1:], alpha=0.25)
    out[1:].add_(odd[:-1], alpha=0.25)
    out[0].add_(even[0], alpha=0.25)
    out[-1].add_(odd[-1], alpha=0.25)
    return out
