"""Photometric augmentation: effects of light, lens, sensor and compression on a photo, on any device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from disk.devices import send
from disk.shapes import Float, Tensor

_KERNEL = 9  # blur kernel size
# the example quantisation tables of the JPEG standard (ITU-T T.81, Annex K), luma and chroma
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
_GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601, as in JPEG
_YCC = (_GREY, (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def augment(images: Float[Tensor, "n *v 3 h w"], generators: Sequence[torch.Generator]) -> Float[Tensor, "n *v 3 h w"]:
    """Random photometric changes, different for each image, as if taken by another camera at another time.

    40 % of the images stay unchanged: a network trained on degraded images only matches good ones worse. In the rest,
    shadow, blur, gamma, contrast, brightness, colour, noise and JPEG artefacts are each applied at random; 40 % are
    low-light images: dark, flat and noisy at once.
    images: values in [0, 1].
    generators: one on the CPU for each of the n images (or sets of images); all its randomness comes from there.
    """
    batch = images.reshape(-1, *images.shape[-3:])
    draw = _Draws(len(batch) // max(len(generators), 1), generators, batch.device)
    batch = batch * _shadow(draw, *batch.shape[-2:])
    kernels = _kernels(draw)  # for every image, so that later draws do not depend on which images are blurred
    batch = _where(draw.chance(0.3), batch, lambda x, chosen: blur(x, send(kernels[chosen], x.device)))
    dim = draw.chance(0.4)
    batch = _tone(draw, batch.clamp(0, 1), dim)
    sigma = torch.where(draw.chance(0.5), 0.05 * draw.uniform(0, 1), 0.0)
    sigma = draw.on_device(torch.where(dim, draw.uniform(0.01, 0.04), sigma))
    batch = (batch + sigma * draw.noise(batch)).clamp(0, 1)
    quality = draw.uniform(15, 85)
    batch = _where(draw.chance(0.35), batch, lambda x, chosen: jpeg(x, quality[chosen]))
    kept = draw.on_device(draw.chance(0.4))
    return torch.where(kept, images.reshape(batch.shape), batch).reshape(images.shape)


def blur(images: Float[Tensor, "b 3 h w"], kernels: Float[Tensor, "b k k"]) -> Float[Tensor, "b 3 h w"]:
    """Filter each image with its own kernel, with replicate padding.

    kernels: k is odd.
    """
    radius = kernels.shape[-1] // 2
    padded = F.pad(images, (radius,) * 4, mode="replicate").transpose(0, 1)  # channels as batch
    return F.conv2d(padded, kernels[:, None], groups=len(images)).transpose(0, 1)


def jpeg(images: Float[Tensor, "b 3 h w"], quality: Float[Tensor, " b"]) -> Float[Tensor, "b 3 h w"]:
    """Simulate JPEG compression with chroma at half resolution.

    images: values in [0, 1].
    quality: 1 to 100, on libjpeg's scale.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, (0, -width % 16, 0, -height % 16), mode="replicate")
    to_ycc = torch.tensor(_YCC)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    forth, back, luma_table, chroma_table, scale = (
        send(table.to(images.dtype), images.device)
        for table in (to_ycc, torch.linalg.inv(to_ycc), torch.tensor(_LUMA), torch.tensor(_CHROMA), scale)
    )
    ycc = torch.einsum("ij,bjhw->bihw", forth, padded * 255)
    luma = _quantise(ycc[:, :1] - 128, luma_table, scale) + 128
    chroma = _quantise(F.avg_pool2d(ycc[:, 1:], 2), chroma_table, scale)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    rgb = torch.einsum("ij,bjhw->bihw", back, torch.cat([luma, chroma], 1))
    return (rgb.round().clamp(0, 255) / 255)[..., :height, :width]


def _quantise(planes: Tensor, table: Tensor, scale: Tensor) -> Tensor:
    """Round the coefficients of the 8x8 cosine transform to multiples of table * scale / 100."""
    n = torch.arange(8, device=planes.device, dtype=planes.dtype)
    basis = torch.cos(math.pi / 8 * (n + 0.5) * n[:, None]) / 2
    basis[0] /= math.sqrt(2)
    step = ((table * scale[:, None, None] + 50) / 100).floor().clamp(1, 255)[:, None, None, None]
    blocks = planes.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # b c rows columns 8 8
    blocks = basis.T @ ((basis @ blocks @ basis.T / step).round() * step) @ basis
    return blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)


class _Draws:
    """Random parameters, one per image, on the CPU, where branching on them needs no transfer.

    each: images per generator.
    """

    def __init__(self, each: int, generators: Sequence[torch.Generator], device: torch.device) -> None:
        self.each, self.generators, self.device = each, generators, device

    def uniform(self, low: float | int, high: float | int, *shape: int) -> Tensor:
        drawn = [torch.rand(self.each, *shape, generator=generator) for generator in self.generators]
        return low + (high - low) * (torch.cat(drawn) if drawn else torch.zeros(0, *shape))

    def chance(self, probability: float) -> Tensor:
        return self.uniform(0, 1) < probability

    def noise(self, like: Tensor) -> Tensor:
        """Normal numbers, drawn on the images' device."""
        result = torch.empty_like(like)
        for part, generator in zip(result.split(self.each or 1), self.generators, strict=False):
            seed = int(torch.randint(1 << 62, (), generator=generator))
            part.normal_(generator=torch.Generator(like.device).manual_seed(seed))
        return result

    def on_device(self, values: Tensor) -> Tensor:
        """Reshape (b, ...) to (b, 1, 1, 1) or (b, c, 1, 1) on the images' device."""
        return send(values.reshape(len(values), -1, 1, 1), self.device)


def _where(chosen: Tensor, batch: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Apply `change(images, indices)` to the chosen images."""
    index = torch.nonzero(chosen)[:, 0]
    if not len(index):
        return batch
    rows = send(index, batch.device)
    return batch.index_copy(0, rows, change(batch[rows], index))


def _shadow(draw: _Draws, height: int, width: int) -> Float[Tensor, "b 1 h w"]:
    """Brightness factor per pixel: darker in a wedge between two lines with soft or sharp edges."""
    y = torch.linspace(-1, 1, height, device=draw.device)[:, None]
    x = torch.linspace(-1, 1, width, device=draw.device)
    darkness = torch.where(draw.chance(0.4), draw.uniform(0.2, 0.75), 0.0)
    softness = torch.exp(draw.uniform(math.log(0.01), math.log(0.7)))
    shade = draw.on_device(darkness)
    for _ in range(2):
        angle, offset = draw.uniform(-math.pi, math.pi), draw.uniform(-0.7, 0.7)
        across = draw.on_device(angle.cos()) * x + draw.on_device(angle.sin()) * y + draw.on_device(offset)
        shade = shade * torch.sigmoid(across / draw.on_device(softness))
    return 1 - shade


def _tone(draw: _Draws, batch: Tensor, dim: Tensor) -> Tensor:
    """Change colour, gamma, contrast and brightness.

    dim: which images become dark and flat.
    """
    grey = torch.einsum("c,bchw->bhw", send(torch.tensor(_GREY, dtype=batch.dtype), batch.device), batch)[:, None]
    saturation = torch.where(draw.chance(0.4), draw.uniform(0.3, 1.7), 1.0)
    saturation = torch.where(draw.chance(0.07), 0.0, saturation)
    batch = grey + draw.on_device(saturation) * (batch - grey)
    white = torch.where(draw.chance(0.5)[:, None], draw.uniform(-0.2, 0.2, 3).exp(), 1.0)
    batch = (batch * draw.on_device(white)).clamp(1e-4, 1)
    gamma = torch.where(draw.chance(0.5), draw.uniform(-0.9, 0.9).exp(), 1.0)
    gamma = torch.where(dim, draw.uniform(0.4, 0.9).exp(), gamma)
    batch = batch ** draw.on_device(gamma)
    contrast = torch.where(draw.chance(0.5), draw.uniform(math.log(0.35), math.log(1.5)).exp(), 1.0)
    contrast = torch.where(dim, draw.uniform(math.log(0.4), 0).exp(), contrast)
    pivot, brightness = draw.uniform(0, 1), torch.where(draw.chance(0.4), draw.uniform(-0.2, 0.2), 0.0)
    contrast, pivot, brightness = (draw.on_device(part) for part in (contrast, pivot, brightness))
    return ((batch - pivot) * contrast + pivot + brightness).clamp(0, 1)


def _kernels(draw: _Draws) -> Float[Tensor, "n k k"]:
    """Blur kernels that sum to 1: Gaussians (defocus) or soft lines (motion)."""
    sigma, length = draw.uniform(0.4, 1.3), draw.uniform(1, 2.5)
    moves, angle = draw.chance(0.4), draw.uniform(0, math.pi)
    n = torch.arange(_KERNEL) - _KERNEL // 2
    along = angle.cos()[:, None, None] * n + angle.sin()[:, None, None] * n[:, None]
    across = angle.cos()[:, None, None] * n[:, None] - angle.sin()[:, None, None] * n
    sigma_along = torch.where(moves, length, sigma)[:, None, None]
    sigma_across = torch.where(moves, 0.5, sigma)[:, None, None]
    kernels = torch.exp(-((along / sigma_along) ** 2 + (across / sigma_across) ** 2) / 2)
    return kernels / kernels.sum((1, 2), keepdim=True)
