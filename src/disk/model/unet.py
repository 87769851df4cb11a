"""The U-Net of DISK."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from disk.model import halfblock, upblock
from disk.model.statistics import EPS, encode
from disk.model.winograd import KERNEL
from disk.shapes import Float, Tensor

STRIDE = 16  # height and width of the network's input must be multiples of this
DOWN = (16, 32, 64, 64, 64)
UP = (64, 64, 64)


class InstanceNorm(nn.Module):
    """Instance normalisation without parameters.

    `nn.InstanceNorm2d` refuses a single spatial element, which a 16x16 image reaches at the bottom of the U-Net.
    """

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return torch.instance_norm(x, None, None, None, None, True, 0.0, EPS, torch.backends.cudnn.enabled)


class ConvBlock(nn.Sequential):
    """Pre-activation block: norm, PReLU, convolution. The released state dict fixes the indices."""

    def __init__(self, channels_in: int, channels_out: int, bare: bool = False) -> None:
        super().__init__(
            nn.Identity() if bare else InstanceNorm(),
            nn.Identity() if bare else nn.PReLU(channels_in),
            nn.Identity(),  # the original has an optional dropout here
            nn.Conv2d(channels_in, channels_out, KERNEL, padding=KERNEL // 2),
        )

    def weights(self) -> tuple[Float[Tensor, " c"], Float[Tensor, "o c 5 5"], Float[Tensor, " o"]]:
        """The PReLU's slopes, the convolution's weight and its bias."""
        slope, convolution = cast(nn.PReLU, self[1]), cast(nn.Conv2d, self[3])
        return slope.weight, convolution.weight, cast(Tensor, convolution.bias)


class UpBlock(nn.Module):
    """Bilinear x2, concatenation with the skip connection, convolution block."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = ConvBlock(channels_in, channels_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.conv(torch.cat([up, skip], dim=1))

    def fast(self, x: Tensor, skip: Tensor, products: torch.dtype | None = None) -> Tensor:
        """The same with `disk.model.upblock` where that is faster: on a CPU, in full precision, not compiled.

        Height and width of `skip` must be multiples of 4. Without gradients, overwrites both inputs.
        products: half precision of the products on a CPU (`disk.model.halfblock`), without gradients and autocast;
            None: that of the maps
        """
        if products is not None:
            slope, weight, _ = self.conv.weights()
            return halfblock.convolve(encode(x, skip), slope, weight, products)
        half_precision = x.dtype.itemsize < 4 or torch.is_autocast_enabled("cpu")
        if x.device.type != "cpu" or half_precision or torch.compiler.is_compiling():
            return self(x, skip)
        return upblock.convolve(encode(x, skip), *self.conv.weights())


class UNet(nn.Module):
    """The original's U-Net with `channels_out` output channels (Tyszkiewicz et al. 2020, section 4).

    `trunk` stops before the last block, which `disk.model.head` evaluates only where needed.
    """

    def __init__(self, channels_out: int) -> None:
        super().__init__()
        widths = (3, *DOWN)
        self.path_down = nn.ModuleList(
            nn.Sequential(
                nn.Identity() if i == 0 else nn.AvgPool2d(2),
                ConvBlock(widths[i], widths[i + 1], bare=i == 0),
            )
            for i in range(len(DOWN))
        )
        outs = (*UP, channels_out)
        ins = (DOWN[-1], *UP)
        self.path_up = nn.ModuleList(UpBlock(ins[i] + DOWN[-2 - i], outs[i]) for i in range(len(outs)))

    def coarse(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run the layers down to 1/8 resolution: the map there, and the skip connections at 1/4, 1/2 and 1."""
        maps = [images]
        for block in self.path_down:
            maps.append(block(maps[-1]))
        x = self.path_up[0](maps[5], maps[4])
        return x, maps[3], maps[2], maps[1]

    def fine(
        self, x: Tensor, quarter: Tensor, half: Tensor, full: Tensor, *, products: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """The trunk from the maps of `coarse`: two up blocks, with most of its arithmetic.

        products: as in `UpBlock.fast`
        """
        first, second = cast(UpBlock, self.path_up[1]), cast(UpBlock, self.path_up[2])
        return second.fast(first.fast(x, quarter, products), half, products), full

    def trunk(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b 64 h2 w2"], Float[Tensor, "b 16 h w"]]:
        """The two inputs of the last block: the map at half resolution and the skip connection at full resolution."""
        return self.fine(*self.coarse(images))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
        """Run the whole U-Net densely, with plain convolutions."""
        x, *maps = self.coarse(images)
        for block, skip in zip(self.path_up[1:], maps, strict=True):
            x = block(x, skip)
        return x
