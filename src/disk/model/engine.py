"""Running the network on a batch of canvases: with onnxruntime and torch on a CPU, with batched kernels on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, Protocol, cast, runtime_checkable

import torch

from disk.devices import crowded, load_average, usable_cores
from disk.errors import DiskError, require
from disk.fastest import fastest
from disk.features import Features
from disk.model.canvas import Canvas
from disk.model.detection import best_allowed, nms, refine, sample_grid
from disk.model.memory import pixels_that_fit
from disk.model.options import DetectionOptions
from disk.model.statistics import encode
from disk.model.strips import large
from disk.options import Precision, option
from disk.progress import log
from disk.shapes import Tensor
from disk.workers import start_each

if TYPE_CHECKING:
    from disk.model.disk import DISK

Backend = Literal["auto", "torch", "onnx"]
_MEASURED = (1, 3, 192, 256)  # shape of the images on which onnxruntime and torch are compared
_BYTES_PER_PIXEL = {"onnx": 400, "torch": 250}
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@runtime_checkable
class Engine(Protocol):
    """One way to run the network and detect features in canvases of one shape."""

    name: str
    bytes_per_pixel: int
    """Most memory that an image takes, per pixel."""

    def start(
        self,
        canvases: Sequence[Canvas],
        options: DetectionOptions,
        generator: torch.Generator | None,
        to: torch.device,
    ) -> Callable[[], list[Features]]:
        """Start detection; returns a function that waits for the features: canvas pixels, best first, on `to`."""

    def images_at_once(self, height: int, width: int) -> int:
        """The best number of images of this size for one pass."""


def resolve_precision(precision: Precision, device: torch.device) -> Literal["fp32", "fp16", "bf16"]:
    """Resolve `auto`: fp16 on a CUDA GPU, fp32 elsewhere."""
    if precision != "auto":
        return precision
    return "fp16" if device.type == "cuda" else "fp32"


def make_engine(model: DISK, precision: Precision, backend: Backend) -> Engine:
    """Make the engine for the network's device.

    backend: `auto` is onnxruntime for fp32 on a CPU if it is installed and faster, otherwise torch

    Raises DiskError for backend `onnx` on another device or in another precision.
    """
    parameter = next(model.parameters())
    device, precision = parameter.device, resolve_precision(precision, parameter.device)
    fits = device.type == "cpu" and precision == "fp32" and parameter.dtype != torch.float64
    if backend == "onnx" and not fits:
        raise DiskError(
            f"{option('backend', 'onnx')} runs in fp32 on the CPU; use {option('precision', 'fp32')} and "
            f"{option('device', 'cpu')}, or {option('backend', 'torch')}"
        )
    warn_of_emulation(device, precision)
    if device.type == "cuda":
        from disk.model.gpu import BatchEngine

        return BatchEngine(model, precision)
    choose = backend == "auto" and fits and _has_onnxruntime()
    return StripEngine(model, precision, None if choose else backend == "onnx")


class StripEngine:
    """The engine for a CPU: up blocks and heatmap in strips that fit the cache.

    Images of a batch run in parallel, each on one core, because cores share the work of one image less efficiently.
    A batch of much fewer images than cores runs one image after the other, on all cores.
    onnx: whether the layers before the up blocks run in onnxruntime; None: whichever is faster
    """

    def __init__(self, model: DISK, precision: Literal["fp32", "fp16", "bf16"], onnx: bool | None) -> None:
        parameter = next(model.parameters())
        # half-precision weights run in fp32, except in the coarse part and, on a CPU, in the products of the up blocks
        self._model = copy.deepcopy(model).float() if parameter.dtype.itemsize < 4 else model
        self._dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
        self._device = parameter.device
        self._coarse: Callable[[Tensor], Sequence[Tensor]] = self._model.unet.coarse
        half = _DTYPES.get(precision)
        self._products = half if self._device.type == "cpu" else None
        if half is not None:
            self._coarse = _in_half_precision(model, half)
        if onnx is None:
            onnx = _onnx_is_faster(self._model)
        self.name = "onnx" if onnx else "torch"
        self.bytes_per_pixel = _BYTES_PER_PIXEL[self.name]
        # once, because images that run in parallel take their memory bit by bit
        self._room = pixels_that_fit(self.bytes_per_pixel, self._device)
        if onnx:
            require("onnxruntime")
            self._coarse = _in_onnxruntime(self._model, torch.get_num_threads())

    def images_at_once(self, height: int, width: int) -> int:
        """On a CPU as many as it has cores, if they fit into memory; otherwise one."""
        threads = torch.get_num_threads() if self._device.type == "cpu" else 1
        return max(1, int(min(threads, self._room // (height * width))))

    def start(
        self,
        canvases: Sequence[Canvas],
        options: DetectionOptions,
        generator: torch.Generator | None,
        to: torch.device,
    ) -> Callable[[], list[Features]]:
        """Start detection; images that do not run in parallel are finished when it returns."""

        def detect(canvas: Canvas) -> Features:
            return self._detect(canvas, options, generator).to(to)

        height, width = canvases[0].pixels.shape[1:]
        threads = torch.get_num_threads()
        fit = self.images_at_once(height, width) >= min(len(canvases), threads)
        enough = len(canvases) > max(1, threads // 2)
        if fit and enough and self._device.type == "cpu" and options.mode != "rng":
            return start_each(detect, canvases)
        found = [detect(canvas) for canvas in canvases]
        return lambda: found

    @torch.no_grad()
    def _detect(self, canvas: Canvas, options: DetectionOptions, generator: torch.Generator | None) -> Features:
        image = canvas.pixels[None].to(self._device)
        image = image.to(self._dtype).div_(255) if image.dtype == torch.uint8 else image.to(self._dtype)
        maps = self._coarse(image.contiguous())
        encoding = encode(*self._model.unet.fine(*maps, products=self._products))
        logits = self._model.heatmap(encoding)
        area = logits[0, : canvas.placement.height, : canvas.placement.width]
        found = nms(area, options.window) if options.mode == "nms" else sample_grid(logits, generator)[0]
        points, scores = best_allowed(*found, canvas, options.budget)
        (descriptors,) = self._model.describe(encoding, [points])
        subpixel = options.subpixel and options.mode == "nms"
        keypoints = refine(area, points) if subpixel else points.float()
        return Features(keypoints, descriptors.float(), scores.float())


def _has_onnxruntime() -> bool:
    if find_spec("onnxruntime") is None:
        return False
    from disk.model.onnx.runtime import import_onnxruntime

    try:
        import_onnxruntime()
    except Exception as error:  # a broken installation raises exceptions of all types
        log.warning("onnxruntime is installed but does not work (%s); detection runs in torch", error)
        return False
    return True


def _onnx_is_faster(model: DISK) -> bool:
    """Whether onnxruntime runs the layers down to 1/8 resolution faster than torch."""
    images = torch.rand(_MEASURED, generator=torch.Generator().manual_seed(0))

    def by_onnx() -> Callable[[], object]:
        from disk.model.onnx import coarse_session

        session = coarse_session(model, torch.get_num_threads())
        return lambda: session.run(None, {"images": images.numpy()})

    with torch.no_grad():
        ways = {"torch": lambda: lambda: model.unet.coarse(images), "onnxruntime": by_onnx}
        return fastest(f"layers up to an eighth, {_MEASURED[3]}x{_MEASURED[2]}", ways) == "onnxruntime"


def _in_onnxruntime(model: DISK, threads: int) -> Callable[[Tensor], Sequence[Tensor]]:
    """The coarse part in onnxruntime, on all cores or, in a thread that uses one core, on one."""
    from disk.model.onnx import coarse_session

    sessions = {count: coarse_session(model, count) for count in {1, threads}}

    def coarse(images: Tensor) -> Sequence[Tensor]:
        maps = sessions[torch.get_num_threads()].run(None, {"images": images.numpy()})
        return [torch.from_numpy(each) for each in maps]

    return coarse


def _in_half_precision(model: DISK, dtype: torch.dtype) -> Callable[[Tensor], Sequence[Tensor]]:
    """The coarse part in half precision; its maps in fp32, in which torch's other operations are as fast."""
    unet = copy.deepcopy(model.unet)
    # half precision represents 256ths exactly, unlike the 255ths of an 8-bit image
    cast(torch.nn.Conv2d, unet.get_submodule("path_down.0.1.3")).weight.data *= 256 / 255
    unet.to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has it, its types do not

    def coarse(images: Tensor) -> Sequence[Tensor]:
        maps = unet.coarse((images * (255 / 256)).to(dtype, memory_format=torch.channels_last))
        return [large(images, *m.movedim(1, 3).shape).movedim(3, 1).copy_(m) for m in maps]

    return coarse


def warn_of_emulation(device: torch.device, precision: Precision) -> None:
    """Log a warning if the CPU has no instructions for a precision, which is then many times slower."""
    if device.type == "cpu" and precision in _DTYPES and not has_instructions(precision):
        log.warning(
            "this CPU has no %s instructions and emulates them: %s is faster", precision, option("precision", "fp32")
        )


@lru_cache(maxsize=1)
def hint_at_rivals() -> None:
    """Log a hint, once per process, if other processes already use the cores that this one's threads need."""
    if torch.get_num_threads() > 1 and crowded():
        cores, busy = usable_cores(), load_average()
        share = max(1, int(cores / busy * torch.get_num_threads()))
        log.warning(
            "other processes use the CPU (%.0f threads want to run on %d cores): this is slower than it could be. If "
            "several of your processes detect at once, give each its share: disk.load(threads=%d), or "
            "OMP_NUM_THREADS=%d",
            busy, cores, share, share,
        )  # fmt: skip


def has_instructions(precision: str) -> bool:
    """Whether this CPU has instructions for `bf16` or `fp16` instead of emulating it."""
    check = getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported", None)
    return check is None or bool(check())
