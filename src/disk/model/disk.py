"""DISK: the network with detection and description."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, Literal, TypedDict, cast, overload

import numpy as np
import torch
from PIL.Image import Image
from torch import nn
from torch.nn import functional as F
from typing_extensions import Unpack

from disk.blocks import blocks
from disk.errors import DiskError
from disk.features import Features
from disk.images.inputs import ImageLike
from disk.model import head
from disk.model.canvas import Canvas, Masks, make_canvases
from disk.model.engine import Backend, Engine, hint_at_rivals, make_engine
from disk.model.memory import fits
from disk.model.options import DetectionOptions
from disk.model.statistics import Encoding, encode
from disk.model.tiled import detect_in_tiles
from disk.model.unet import STRIDE, UNet, UpBlock
from disk.options import Precision
from disk.shapes import Float, Int, Tensor

__all__ = ["DISK", "STRIDE"]


class Changes(TypedDict, total=False):
    """Fields of `DetectionOptions` by name."""

    height: int | None
    width: int | None
    max_size: int
    n: int | None
    window: int
    subpixel: bool
    mode: Literal["nms", "rng"]


class DISK(nn.Module):
    """DISK local features (Tyszkiewicz, Fua, Trulls, NeurIPS 2020).

    A plain torch module whose parameters have the names and shapes of the released checkpoints; `disk.load` makes one.
    The commands run `detect` too; set `precision` and `backend` at any time to change how it computes.
    """

    def __init__(self, desc_dim: int = 128) -> None:
        super().__init__()
        self.desc_dim = desc_dim
        self.unet = UNet(desc_dim + 1)
        self.precision: Precision = "auto"
        self.backend: Backend = "auto"
        self._engine: tuple[Any, Engine] | None = None

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b d h w"]]:
        """Heatmap logits and unnormalised descriptors at every pixel: the original's dense formulation."""
        dense = self.unet(images)
        return dense[:, self.desc_dim :], dense[:, : self.desc_dim]

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Encoding:
        """Run everything except the last convolution."""
        return encode(*self.unet.trunk(images))

    def heatmap(self, encoding: Encoding) -> Float[Tensor, "b h w"]:
        """Heatmap logits at every pixel."""
        slope, weight, bias = self._last_block()
        return head.heatmap(encoding, slope, weight[self.desc_dim], bias[self.desc_dim])

    def describe(self, encoding: Encoding, points: list[Int[Tensor, "_ 2"]]) -> list[Float[Tensor, "_ d"]]:
        """Unit descriptors at the given pixels (x, y) of each image in the batch."""
        slope, weight, bias = self._last_block()
        weight, bias = weight[: self.desc_dim], bias[: self.desc_dim]
        # unbind, because the gradient of indexing is a map of the whole batch for each image
        images = zip(encoding.half.unbind(), encoding.skip.unbind(), encoding.scale.unbind(), points, strict=True)
        return [F.normalize(head.describe(*image, slope, weight, bias), dim=1) for image in images]

    def _last_block(self) -> tuple[Tensor, Tensor, Tensor]:
        return cast(UpBlock, self.unet.path_up[-1]).conv.weights()

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @property
    def engine(self) -> Engine:
        """The engine that runs detection with the current parameters, device, precision and backend."""
        # an engine copies the weights into its own layout, so any change of a parameter needs a new engine
        parameters = [(p.data_ptr(), p._version, p.dtype, p.device) for p in self.parameters()]
        key = (parameters, self.precision, self.backend, torch.get_num_threads())
        made = self._engine  # another thread may replace it meanwhile
        if made is None or made[0] != key:
            made = self._engine = key, make_engine(self, self.precision, self.backend)
        return made[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": None}

    def start(
        self,
        canvases: Sequence[Canvas],
        options: DetectionOptions = DetectionOptions(),
        generator: torch.Generator | None = None,
        to: torch.device | str | None = None,
    ) -> Callable[[], list[Features]]:
        """Start detection in prepared images of one shape; returns a function that waits for the features.

        Keypoints are in pixels of the original images. Images whose maps do not fit into memory run in tiles, with the
        same result up to rounding (`disk.model.tiled`).
        generator: random numbers for mode rng, on the network's device
        to: device of the features; default: the network's
        """
        to = torch.device(to or self.device)
        height, width = canvases[0].pixels.shape[1:]
        finish = None
        if fits(height * width, self.engine.bytes_per_pixel, self.device):
            with contextlib.suppress(torch.OutOfMemoryError):  # other programs may take memory of a GPU meanwhile
                finish = self.engine.start(canvases, options, generator, to)
        if finish is None:
            finish = detect_in_tiles(self, canvases, options, generator, to)
        return lambda: [
            replace(features, keypoints=canvas.placement.to_original(features.keypoints), image_size=canvas.size)
            for features, canvas in zip(finish(), canvases, strict=True)
        ]

    def images_at_once(self, height: int = 1600, width: int = 1600) -> int:
        """The best number of images of this size, in pixels, for one pass of the network, given the free memory."""
        return self.engine.images_at_once(height, width)

    @overload
    def detect(  # type: ignore[overload-overlap]  # a str is a sequence of str, but comes first
        self,
        image: str | os.PathLike[str] | Image,
        options: DetectionOptions = ...,
        *,
        masks: Masks = ...,
        generator: torch.Generator | None = ...,
        **changes: Unpack[Changes],
    ) -> Features: ...

    @overload
    def detect(
        self,
        image: Sequence[ImageLike],
        options: DetectionOptions = ...,
        *,
        masks: Masks = ...,
        generator: torch.Generator | None = ...,
        **changes: Unpack[Changes],
    ) -> list[Features]: ...

    @overload
    def detect(
        self,
        image: np.ndarray | Tensor,
        options: DetectionOptions = ...,
        *,
        masks: Masks = ...,
        generator: torch.Generator | None = ...,
        **changes: Unpack[Changes],
    ) -> Features | list[Features]: ...

    def detect(
        self,
        image: Any,
        options: DetectionOptions = DetectionOptions(),
        *,
        masks: Any = None,
        generator: torch.Generator | None = None,
        **changes: Unpack[Changes],
    ) -> Features | list[Features]:
        """Detect features in an image, or in each image of a list or batch, best first, as `disk detect` does.

        Keypoints are in pixels of the image as given. The tensors are on the network's device.
        image: a path, PIL image, uint8 or float array or tensor; see `disk.images.inputs.as_pixels`
        options: how to detect
        masks: an image that is 0 where no keypoint may be, or a list with one mask, or None, for each image
        generator: random numbers for mode rng, on the network's device
        changes: fields of `options` by name, such as `n=2048`

        Raises ImageError if an image or mask cannot be used, and DiskError for invalid options.

        >>> import disk
        >>> features = disk.load().detect(torch.rand(3, 48, 64), n=20)
        >>> len(features), features.descriptors.shape[1], features.image_size
        (20, 128, (64, 48))
        """
        unknown = set(changes) - {field.name for field in fields(options)}
        if unknown:
            raise DiskError(
                f"detect has no option {', '.join(sorted(unknown))}; it has {', '.join(Changes.__annotations__)}"
            )
        options = replace(options, **changes)
        options.check()
        canvases, single = make_canvases(image, options, masks)
        if self.device.type == "cpu":
            hint_at_rivals()
        found: list[Features | None] = [None] * len(canvases)
        for rows in _equal_shapes(canvases):
            height, width = canvases[rows[0]].pixels.shape[1:]
            # asking a GPU for its free memory takes as long as much of the network
            alone = options.mode == "rng" or len(rows) == 1
            step = 1 if alone else self.images_at_once(height, width)
            for some in blocks(len(rows), step):
                features = self.start([canvases[i] for i in rows[some]], options, generator)()
                for i, each in zip(rows[some], features, strict=True):
                    found[i] = each
        results = [features for features in found if features is not None]
        return results[0] if single else results


def _equal_shapes(canvases: Sequence[Canvas]) -> list[list[int]]:
    """The indices of the canvases, grouped by shape, type and device."""
    groups: dict[Any, list[int]] = {}
    for i, canvas in enumerate(canvases):
        groups.setdefault((canvas.pixels.shape, canvas.pixels.dtype, canvas.pixels.device), []).append(i)
    return list(groups.values())
