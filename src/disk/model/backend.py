"""Running the network over batches on a device, at a precision, by torch or onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Literal

import torch

from disk.errors import DiskError
from disk.features import Features
from disk.model.detection import nms, refine, sample_grid
from disk.model.disk import DISK
from disk.model.statistics import encode
from disk.progress import log
from disk.shapes import Bool, Float, Tensor

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Backend:
    """Detection with one network on one device. Get one from `make_backend`."""

    def __init__(self, model: DISK, device: torch.device, precision: Precision, onnx: bool) -> None:
        self.model = model.to(device).eval()
        self.device = device
        self.name = "onnx" if onnx else "torch"
        self._autocast = nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=_DTYPES[precision])
        self._coarse: Callable[[Tensor], Sequence[Tensor]] = model.unet.coarse
        if onnx:
            from disk.model.onnx import coarse_session

            session = coarse_session(model, torch.get_num_threads())
            self._coarse = lambda images: [torch.from_numpy(m) for m in session.run(None, {"images": images.numpy()})]

    @torch.inference_mode()
    def detect_batch(
        self,
        images: Float[Tensor, "b 3 h w"],
        sizes: Sequence[tuple[int, int]],
        n: int | None = None,
        window: int = 5,
        mode: Literal["nms", "rng"] = "nms",
        generator: torch.Generator | None = None,
        masks: Sequence[Bool[Tensor, "_ _"] | None] | None = None,
        subpixel: bool = False,
    ) -> list[Features]:
        """Features of padded images, on the CPU, best first.

        Height and width are multiples of 16; `sizes` are the (height, width) without padding, in pixels, and
        `masks` of those sizes are False where no keypoint may be. Both apply before the `n` best are taken.
        `rng` draws keypoints as in training, from `generator`; scores are then log-probabilities. `subpixel` moves
        local maxima to the peaks between pixels.
        """
        images = images.to(self.device).contiguous()
        with self._autocast:
            encoding = encode(*self.model.unet.fine(*self._coarse(images)))
            logits = self.model.heatmap(encoding)
            if mode == "nms":
                found = [nms(logits[i, :h, :w], window) for i, (h, w) in enumerate(sizes)]
            else:
                found = sample_grid(logits, generator)
            for i, (height, width) in enumerate(sizes):
                points, scores = found[i]
                order = torch.argsort(scores, descending=True, stable=True)
                x, y = points[order].unbind(1)
                allowed = (x < width) & (y < height)
                mask = masks[i] if masks is not None else None
                if mask is not None:
                    allowed &= mask.to(self.device)[y.clamp(max=height - 1), x.clamp(max=width - 1)]
                order = order[allowed][:n]
                found[i] = points[order], scores[order]
            descriptors = self.model.describe(encoding, [points for points, _ in found])
        if subpixel and mode == "nms":
            peaks = [refine(logits[i, :h, :w], found[i][0]) for i, (h, w) in enumerate(sizes)]
        else:
            peaks = [points.float() for points, _ in found]
        return [
            Features(keypoints, descriptor.float(), scores.float()).to("cpu")
            for keypoints, (_, scores), descriptor in zip(peaks, found, descriptors, strict=True)
        ]


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA, then Apple's GPU, then the CPU. Raises DiskError for a device that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, available in there.items() if available)
    if not there.get(name.split(":")[0], False):
        raise DiskError(f"--device {name}: this machine has no such device; use --device auto")
    return torch.device(name)


def make_backend(
    model: DISK,
    device: str = "auto",
    precision: Precision = "fp32",
    backend: Literal["auto", "torch", "onnx"] = "auto",
) -> Backend:
    """A backend for inference; `auto` is onnxruntime for fp32 on a CPU, torch for all else.

    Raises DiskError for a device this machine lacks and for onnx off the CPU or below fp32.
    """
    where = choose_device(device)
    onnx = backend == "onnx" or (backend == "auto" and where.type == "cpu" and precision == "fp32")
    if onnx and (where.type != "cpu" or precision != "fp32"):
        raise DiskError("--backend onnx runs in fp32 on the CPU; drop --precision and --device, or use --backend torch")
    warn_of_emulation(where, precision)
    return Backend(model, where, precision, onnx)


def warn_of_emulation(device: torch.device, precision: Precision) -> None:
    """Log a warning where the processor has no instructions for a precision, which makes it many times slower."""
    if device.type == "cpu" and precision != "fp32" and not _has_instructions(precision):
        log.warning("this processor has no %s instructions and emulates them: --precision fp32 is faster", precision)


def _has_instructions(precision: str) -> bool:
    check = getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported", None)
    return check is None or bool(check())
