"""Detection over a folder of images: decode ahead, batch equal shapes, run the network, write behind."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Literal

import numpy as np
import torch

from disk.errors import ArtifactError, CheckpointError, DiskError, ImageError, PartialFailureError
from disk.features import Features
from disk.images.listing import ImageFile, images_in_images, list_images
from disk.model.backend import Backend, choose_device, make_backend
from disk.model.checkpoints import load, weights_hash
from disk.model.disk import DISK
from disk.pipeline.cluster import Cluster, RayCluster
from disk.pipeline.loading import Loaded, equal_shapes, load_ahead, load_image
from disk.progress import log, progress_bar
from disk.storage.artifacts import DESCRIPTORS, KEYPOINTS, SCORES, feature_writer
from disk.storage.locks import folder_lock
from disk.storage.shards import SHARD_BYTES, ShardWriter, keep_what_is_done

# these decide what is found; a run only goes on with the same values
_DECISIVE = ("height", "width", "max_size", "window", "subpixel", "n", "mode", "f16", "precision")
_CORES = 4  # for a worker on a cluster without GPUs; the maps of a large image need memory that few cores come with


@dataclass(frozen=True, kw_only=True)
class DetectOptions:
    """How features are detected."""

    height: int | None = None
    """Fit images into a box of this height and --width, padded on the right and below; alone: resize to it."""
    width: int | None = None
    """Width of that box."""
    max_size: int = 1600
    """Shrink images whose long side is longer, in pixels; 0: never. Not used with --height or --width."""
    image_extension: str | None = None
    """Only images with this extension, any case; default: every supported type."""
    n: int | None = 4096
    """Keep this many best keypoints of an image; None: all."""
    window: int = 5
    """Side of the non-maximum suppression window, odd, in pixels."""
    subpixel: bool = True
    """Keypoints at the peaks of the heatmap between pixels; without, whole pixels as in the original."""
    mode: Literal["nms", "rng"] = "nms"
    """nms: the best local maxima; rng: drawn at random as in training, the same ones on every run."""
    model_path: str = "default"
    """Weights: default, depth, epipolar, or a .pth or .safetensors file."""
    desc_dim: int = 128
    """Length of a descriptor; must be the checkpoint's."""
    f16: bool = False
    """Store descriptors as float16, half the size."""
    detection_scores: bool = False
    """Accepted for the original's sake: scores.h5 is always written."""
    mask_dir: Path | None = None
    """Folder of masks named as COLMAP does: the mask of image.jpg is image.jpg.png; no features where it is 0."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the network runs; auto: a GPU if there is one."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the network."""
    backend: Literal["auto", "torch", "onnx"] = "auto"
    """auto: onnxruntime on a CPU in fp32, torch otherwise."""
    batch_size: int = 0
    """Images of equal shape in one pass of the network; 0: one on a CPU, four on a GPU."""
    workers: int = 0
    """Threads that decode images ahead of the network; 0: one per core, at most eight."""
    ray: RayCluster = "off"
    """auto: on all machines of the Ray cluster this one belongs to; local: on all GPUs of this one, by Ray."""
    overwrite: bool = False
    """Delete the features in the folder, and the matches made of them, and start anew."""
    keep_going: bool = False
    """Exit with 0 even when some images could not be read."""


@dataclass(frozen=True)
class DetectSummary:
    """What a run did: images in the folder, those done now, their keypoints, and why others failed."""

    images: int
    detected: int
    keypoints: int
    failed: dict[str, str]


def detect(artifacts: Path, images: Path, options: DetectOptions = DetectOptions()) -> DetectSummary:
    """Detect features in every image below a folder: keypoints.h5, descriptors.h5 and scores.h5.

    Images already done are skipped, so the same command goes on after an interruption. Raises
    PartialFailureError when some images could not be read and the rest was done.
    """
    check_detect(options)
    files = list_images(images, options.image_extension)
    model = load(options.model_path)
    if model.desc_dim != options.desc_dim:
        raise CheckpointError(
            f"{options.model_path} has descriptors of {model.desc_dim}: use --desc-dim {model.desc_dim}"
        )
    decisive = {name: getattr(options, name) for name in _DECISIVE} | {"masks": options.mask_dir is not None}
    start = perf_counter()
    with folder_lock(artifacts):
        writer = feature_writer(artifacts, decisive, weights_hash(model), options.overwrite, SHARD_BYTES)
        done = writer.done()
        _check_names(done, files, artifacts)
        todo = [file for file in files if file.name not in done]
        keypoints, failed = 0, dict[str, str]()
        if todo:
            with _network(model, options) as network:
                keypoints, failed = _detect_all(todo, network, writer, options, len(files) - len(todo))
        writer.finish()
    summary = DetectSummary(len(files), len(todo) - len(failed), keypoints, failed)
    _report(summary, artifacts, perf_counter() - start, options.keep_going)
    return summary


def check_detect(options: DetectOptions) -> None:
    """Raise DiskError for a value that cannot be used."""
    for name, least in {"height": 1, "width": 1, "n": 1, "max_size": 0, "batch_size": 0, "workers": 0}.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise DiskError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
    if options.window < 1 or options.window % 2 == 0:
        raise DiskError(f"--window {options.window}: must be odd and at least 1")
    if options.mask_dir is not None and not options.mask_dir.is_dir():
        raise ImageError(f"mask folder {options.mask_dir} does not exist")


def _check_names(done: set[str], files: list[ImageFile], artifacts: Path) -> None:
    for folder, name in images_in_images(done | {file.name for file in files}):
        raise ArtifactError(
            f"{artifacts} cannot hold both images {folder!r} and {name!r}, and one is there from an earlier run; "
            "use another folder, or --overwrite"
        )


def _report(summary: DetectSummary, artifacts: Path, seconds: float, keep_going: bool) -> None:
    rate = f", {summary.detected / seconds:.2f} images/s" if summary.detected else ""
    log.info(
        "%d images: %d detected now with %d keypoints%s; in %s",
        summary.images, summary.detected, summary.keypoints, rate, artifacts,
    )  # fmt: skip
    if not summary.failed:
        return
    if len(summary.failed) == summary.images:
        raise ImageError(f"none of the {summary.images} images could be read")
    names = list(summary.failed)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    message = (
        f"{len(names)} of {summary.images} images could not be read: {', '.join(names[:10])}{more}; the rest is done"
    )
    if not keep_going:
        raise PartialFailureError(message)
    log.warning("%s", message)


@dataclass(frozen=True)
class _Network:
    """Where the network runs: features of batches, as they come, and how many images go into a batch by default."""

    run: Callable[[Iterable[list[Loaded]]], Iterator[tuple[list[Loaded], list[Features]]]]
    batch_size: int


@contextlib.contextmanager
def _network(model: DISK, options: DetectOptions) -> Iterator[_Network]:
    make = partial(_make_run, model, options)
    if options.ray == "off":
        run = make()
        batch_size = 1 if choose_device(options.device).type == "cpu" else 4
        yield _Network(lambda batches: ((batch, run(batch)) for batch in batches), batch_size)
    else:
        with Cluster(options.ray, make, options.device, _CORES) as cluster:
            batch_size = 4 if cluster.has_gpus else 1
            yield _Network(lambda batches: cluster.map((batch, (batch,)) for batch in batches), batch_size)


def _make_run(model: DISK, options: DetectOptions) -> Callable[[list[Loaded]], list[Features]]:
    """What finds the features of a batch, here or in a worker of a cluster."""
    backend = make_backend(model, options.device, options.precision, options.backend)
    return lambda batch: _run(backend, batch, options)


def _detect_all(
    files: list[ImageFile], network: _Network, writer: ShardWriter, options: DetectOptions, skipped: int
) -> tuple[int, dict[str, str]]:
    """Number of keypoints found, and the images that could not be read with the reasons."""
    failed: dict[str, str] = {}
    keypoints = 0
    batch_size = options.batch_size or network.batch_size
    if options.mode == "rng":
        batch_size = 1  # so that an image's draw depends on its name alone
    workers = options.workers or min(8, os.cpu_count() or 1)
    loading = partial(
        load_image,
        max_size=options.max_size,
        height=options.height,
        width=options.width,
        mask_dir=options.mask_dir,
    )
    batches = equal_shapes(load_ahead(files, loading, workers, workers + batch_size, failed), batch_size)
    bar = progress_bar("detect", "image", total=len(files) + skipped, initial=skipped)
    writing: deque[Future[None]] = deque()
    # the flush comes last, when no thread writes any more
    with (
        keep_what_is_done(writer.flush),
        bar,
        ThreadPoolExecutor(1, "write") as pool,
        contextlib.closing(batches),
    ):
        for batch, features in network.run(batches):
            keypoints += sum(map(len, features))
            writing.append(pool.submit(_write, writer, batch, features, options.f16))
            if len(writing) > 2:
                writing.popleft().result()
            bar.update(len(batch))
        for write in writing:
            write.result()
    return keypoints, failed


def _run(backend: Backend, batch: list[Loaded], options: DetectOptions) -> list[Features]:
    """Features in pixels of the original images."""
    generator = None
    if options.mode == "rng":
        seed = zlib.crc32(batch[0].file.name.encode())
        generator = torch.Generator(backend.device).manual_seed(seed)
    pixels = torch.from_numpy(np.stack([image.canvas for image in batch]))
    try:
        # bytes cross to the device, a quarter of the floats
        images = pixels.to(backend.device).float().div_(255)
        found = backend.detect_batch(
            images,
            [(image.placement.height, image.placement.width) for image in batch],
            options.n,
            options.window,
            options.mode,
            generator,
            [image.mask for image in batch],
            options.subpixel,
        )
    except Exception as error:
        if _out_of_memory(error):
            height, width = batch[0].canvas.shape[1:]
            raise DiskError(
                f"{batch[0].file.path} at {width} x {height} in a batch of {len(batch)} does not fit into memory; "
                "use a smaller --max-size or --batch-size"
            ) from error
        raise
    return [
        Features(image.placement.to_original(features.keypoints), features.descriptors, features.scores)
        for image, features in zip(batch, found, strict=True)
    ]


def _out_of_memory(error: Exception) -> bool:
    # torch on a GPU, torch on a CPU and onnxruntime have nothing but words in common
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text for words in ("out of memory", "can't allocate memory", "failed to allocate memory")
    )


def _write(writer: ShardWriter, batch: list[Loaded], found: list[Features], f16: bool) -> None:
    for image, features in zip(batch, found, strict=True):
        arrays = {
            KEYPOINTS: features.keypoints.numpy(),
            DESCRIPTORS: features.descriptors.numpy().astype(np.float16 if f16 else np.float32, copy=False),
            SCORES: features.scores.numpy(),
        }
        writer.add(image.file.name, arrays, {"image_size": image.size, "image_path": image.file.relative})
