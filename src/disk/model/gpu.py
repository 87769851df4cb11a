"""Detection on a GPU: a whole batch at once by batched operations, replayed as a CUDA graph if its shape recurs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch

from disk.features import Features
from disk.model import batched
from disk.model.canvas import Canvas
from disk.model.detection import sample_grid
from disk.model.detections import Detections
from disk.model.graphs import Graphs
from disk.model.memory import Parts, upload
from disk.model.options import DetectionOptions
from disk.shapes import Tensor

if TYPE_CHECKING:
    from disk.model.disk import DISK

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class BatchEngine:
    """The engine for a GPU: Triton's kernels where they run, otherwise plain torch; copies the current weights."""

    def __init__(self, model: DISK, precision: Literal["fp32", "fp16", "bf16"]) -> None:
        with torch.no_grad():
            self._layout = batched.lay_out(model.unet, _DTYPES[precision])
            operations = self._layout.operations
        self.name = operations.NAME
        self._device = model.device
        self._graphs = Graphs(self._device) if self._device.type == "cuda" else None
        self.bytes_per_pixel = operations.BYTES_PER_PIXEL
        self._parts = Parts(self.bytes_per_pixel)

    def images_at_once(self, height: int, width: int) -> int:
        """As many images as fit the free memory, up to what keeps the GPU busy."""
        return self._parts.images_at_once(height, width, self._device)

    def start(
        self,
        canvases: Sequence[Canvas],
        options: DetectionOptions,
        generator: torch.Generator | None,
        to: torch.device,
    ) -> Callable[[], list[Features]]:
        """Start detection; returns a function that waits for the features: canvas pixels, best first, on `to`.

        With a keypoint budget in mode nms, only that function waits for the device. Halves a batch that does not fit
        into memory.

        Raises torch.OutOfMemoryError if a single image does not fit.
        """
        # Triton launches on the current device, not on that of the tensors, and expects the precision of the layout
        with torch.cuda.device_of(self._layout.taps), torch.autocast(self._device.type, enabled=False):
            waiting = self._parts.run(lambda part: self._start(part, options, generator, to), canvases)
        return lambda: [features for wait in waiting for features in wait()]

    @torch.no_grad()
    def _start(
        self, canvases: Sequence[Canvas], options: DetectionOptions, generator: torch.Generator | None, to: torch.device
    ) -> Callable[[], list[Features]]:
        if options.mode == "rng":
            found = [features.to(to) for features in self._sample(canvases, options.budget, generator)]
            return lambda: found
        try:
            detections = self._detect(canvases, options)
        except torch.OutOfMemoryError:
            if self._graphs is not None:
                self._graphs.clear()
            raise
        if to.type == "cpu":
            return detections.start_download()
        return lambda: [features.to(to) for features in detections.features()]

    def _detect(self, canvases: Sequence[Canvas], options: DetectionOptions) -> Detections:
        images, sizes, masks = upload(canvases, self._device)
        budget, window, subpixel = options.budget, options.window, options.subpixel

        def packed(images: Tensor, sizes: Tensor, masks: Tensor | None = None) -> Tensor:
            return batched.detect(self._layout, images, sizes, budget, window, subpixel, masks).packed

        tensors = (images, sizes) if masks is None else (images, sizes, masks)
        if self._graphs is None or budget is None:
            out = packed(*tensors)
        else:
            key = (images.shape, images.dtype, masks is not None, budget, window, subpixel)
            out = self._graphs.run(key, packed, *tensors)
        return Detections.unpack(out, len(canvases), len(self._layout.bias))

    def _sample(self, canvases: Sequence[Canvas], n: int | None, generator: torch.Generator | None) -> list[Features]:
        """Features at keypoints drawn as in training, on the images and where their masks are not 0."""
        images, sizes, masks = upload(canvases, self._device)
        maps = batched.trunk(self._layout, images)
        drawn = sample_grid(batched.heatmap(self._layout, maps), generator)
        found = []
        for i, (points, scores) in enumerate(drawn):
            order = torch.argsort(scores, descending=True, stable=True)
            x, y = points[order].unbind(1)
            allowed = (x < sizes[i, 1]) & (y < sizes[i, 0])
            if masks is not None:
                allowed &= masks[i, y, x]
            kept = order[allowed][:n]
            described = batched.describe(self._layout, maps, torch.full_like(kept, i), points[kept])
            found.append(Features(points[kept].float(), described, scores[kept]))
        return found
