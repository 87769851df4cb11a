"""Detection over a folder of images: decode ahead, batch equal shapes, run the network, write behind."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from disk.devices import choose_device
from disk.errors import ArtifactError, CheckpointError, DiskError, ImageError, PartialFailureError
from disk.features import Features
from disk.images.listing import ImageFile, images_in_images, list_images, named, unused_files
from disk.images.masks import find_masks, mask_digest
from disk.model.checkpoints import load, weights_hash
from disk.model.disk import DISK
from disk.model.engine import Backend, resolve_precision
from disk.model.options import DetectionOptions
from disk.options import Precision, check_at_least, option
from disk.pipeline.cluster import Cluster, RayCluster
from disk.pipeline.follow import follow_folder
from disk.pipeline.loading import Loaded, equal_shapes, load_ahead, load_image
from disk.progress import log, progress_bar
from disk.storage.artifacts import DESCRIPTORS, KEYPOINTS, SCORES, artifacts_folder, feature_writer
from disk.storage.forget import forget_images
from disk.storage.locks import folder_lock
from disk.storage.shards import SHARD_BYTES, ShardWriter, keep_what_is_done

# these decide what is found; a run only goes on with the same values
_DECISIVE = ("height", "width", "max_size", "window", "subpixel", "mode", "f16")
_CORES = 4  # for a worker on a cluster without GPUs; the maps of a large image need memory that few cores come with


@dataclass(frozen=True, kw_only=True)
class DetectOptions(DetectionOptions):
    """How features are detected in a folder."""

    image_extension: str | None = None
    """Only images with this extension, any case; default: every supported type."""
    model_path: str = "default"
    """Weights: default, depth, epipolar, or a .pth or .safetensors file."""
    desc_dim: int = 128
    """Length of a descriptor; must be the checkpoint's."""
    f16: bool = False
    """Store descriptors as float16, half the size."""
    detection_scores: bool = False
    """Accepted for the original's sake: scores.h5 is always written."""
    mask_dir: Path | None = None
    """Folder of masks, 0 where no features may be: that of image.jpg is image.jpg.png, as in COLMAP, or image.png."""
    device: str = "auto"
    """Where the network runs: cpu, cuda, cuda:1, mps; auto: a GPU if there is one."""
    precision: Precision = "auto"
    """Arithmetic of the network; auto: fp16 on a CUDA GPU, fp32 elsewhere."""
    backend: Backend = "auto"
    """auto: onnxruntime on a CPU in fp32, torch otherwise."""
    batch_size: int = 0
    """Images of equal shape in one pass of the network; 0: one on a CPU, on a GPU what fits its free memory."""
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
    """What a run did: images in the folder, those done now, and their keypoints.

    failed: why others could not be read; stale: images done again because they or their masks had changed; unused:
    other files in the folder, by extension.
    """

    images: int
    detected: int
    keypoints: int
    failed: dict[str, str]
    stale: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def detect(artifacts: Path, images: Path, options: DetectOptions = DetectOptions()) -> DetectSummary:
    """Detect features in every image below a folder: keypoints.h5, descriptors.h5 and scores.h5.

    Images already done are skipped, so the same command goes on after an interruption. Raises
    PartialFailureError when some images could not be read and the rest was done.
    """
    check_detect(options)
    artifacts = artifacts_folder(artifacts)
    files = list_images(images, options.image_extension)
    unused = unused_files(images, files)
    if unused:
        log.info("%s also holds files that are not used: %s", images, unused)
    masks = {} if options.mask_dir is None else find_masks(options.mask_dir, files)
    device = choose_device(options.device if options.ray == "off" else "cpu")
    model = load(options.model_path, device, options.precision, options.backend)
    if model.desc_dim != options.desc_dim:
        raise CheckpointError(
            f"{options.model_path} has descriptors of {model.desc_dim}: use {option('desc_dim', model.desc_dim)}"
        )
    if options.ray == "off":
        model.engine  # noqa: B018  # refuses what cannot run before anything is written
    decisive = {name: getattr(options, name) for name in _DECISIVE} | {
        "n": options.budget,
        "masks": options.mask_dir is not None,
        "precision": resolve_precision(options.precision, device) if options.ray == "off" else options.precision,
    }
    start = perf_counter()
    with folder_lock(artifacts):
        writer = feature_writer(artifacts, decisive, weights_hash(model), options.overwrite, SHARD_BYTES)
        stale = follow_folder(artifacts, files, images, keep_gone=True).changed
        stale += _forget_other_masks(writer, masks, artifacts)
        done = writer.done()
        _check_names(done, files, artifacts)
        todo = [file for file in files if file.name not in done]
        keypoints, failed, slowest = 0, dict[str, str](), ""
        if todo:
            keypoints, failed, slowest = _detect_all(todo, masks, model, writer, options, len(files) - len(todo))
        writer.finish()
    summary = DetectSummary(
        len(files), len(todo) - len(failed), keypoints, failed, sorted({*stale}), unused.split(", ") if unused else []
    )
    _report(summary, artifacts, perf_counter() - start, slowest, options.keep_going)
    return summary


def _forget_other_masks(writer: ShardWriter, masks: dict[str, Path], artifacts: Path) -> list[str]:
    """Take away what was found with another mask than an image has now; the names of these images."""
    before = {name: digest or "" for name, digest in writer.values("mask").items()}
    stale = sorted(name for name, digest in before.items() if digest != mask_digest(masks.get(name)))
    if stale:
        log.warning("the masks of %d images have changed: detecting these anew: %s", len(stale), named(stale))
        forget_images(artifacts, stale)
    return stale


def check_detect(options: DetectOptions) -> None:
    """Raise DiskError for a value that cannot be used."""
    options.check()
    check_at_least(options, batch_size=0, workers=0)
    if options.mask_dir is not None and not options.mask_dir.is_dir():
        raise ImageError(f"mask folder {options.mask_dir} does not exist")


def _check_names(done: set[str], files: list[ImageFile], artifacts: Path) -> None:
    for folder, name in images_in_images(done | {file.name for file in files}):
        raise ArtifactError(
            f"{artifacts} cannot hold both images {folder!r} and {name!r}, and one is there from an earlier run; "
            f"use another folder, or {option('overwrite')}"
        )


def _report(summary: DetectSummary, artifacts: Path, seconds: float, slowest: str, keep_going: bool) -> None:
    rate = f", {summary.detected / seconds:.2f} images/s, limited by {slowest}" if summary.detected else ""
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


class _Waiting:
    """The seconds a run has waited for each of its parts: what held it back."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"decoding": 0.0, "the network": 0.0, "writing": 0.0}

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.seconds[part] += perf_counter() - start

    def longest(self) -> str:
        """The part that was waited for most."""
        return max(self.seconds, key=self.seconds.__getitem__)


_Batch = list[Loaded]
_Run = Callable[[Iterable[_Batch], _Waiting], Iterator[tuple[_Batch, list[Features]]]]


@contextlib.contextmanager
def _network(model: DISK, options: DetectOptions) -> Iterator[tuple[_Run, int]]:
    """What gives the features of batches as they come, here or on a cluster, and the images of a batch, 0 for any."""
    if options.ray == "off":
        batch_size = 1 if model.device.type == "cpu" else 0
        yield lambda batches, waiting: _run_here(model, options, batches, waiting), batch_size
        return
    with Cluster(options.ray, partial(_make_run, model, options), options.device, _CORES) as cluster:
        batch_size = 4 if cluster.has_gpus else 1
        yield lambda batches, waiting: cluster.map((batch, (batch,)) for batch in batches), batch_size


def _make_run(model: DISK, options: DetectOptions) -> Callable[[_Batch], list[Features]]:
    """What finds the features of a batch in a worker of a cluster."""
    model.to(choose_device(options.device))
    return lambda batch: _start(model, batch, options)()


def _run_here(
    model: DISK, options: DetectOptions, batches: Iterable[_Batch], waiting: _Waiting
) -> Iterator[tuple[_Batch, list[Features]]]:
    """On a GPU a batch is started before the one ahead of it is waited for, so that the GPU is never idle."""
    started: deque[tuple[_Batch, Callable[[], list[Features]]]] = deque()
    depth = 0 if model.device.type == "cpu" else 1
    upcoming = iter(batches)
    while True:
        with waiting("decoding"):
            batch = next(upcoming, None)
        if batch is not None:
            with waiting("the network"):
                started.append((batch, _start(model, batch, options)))
        while len(started) > (depth if batch is not None else 0):
            done, finish = started.popleft()
            with waiting("the network"):
                features = finish()
            yield done, features
        if batch is None:
            return


def _detect_all(
    files: list[ImageFile],
    masks: dict[str, Path],
    model: DISK,
    writer: ShardWriter,
    options: DetectOptions,
    skipped: int,
) -> tuple[int, dict[str, str], str]:
    """Number of keypoints found, the images that could not be read with the reasons, what was waited for most."""
    failed: dict[str, str] = {}
    keypoints = 0
    workers = options.workers or min(8, os.cpu_count() or 1)
    loading = partial(
        load_image,
        max_size=options.max_size,
        height=options.height,
        width=options.width,
        masks=masks,
    )
    waiting = _Waiting()
    bar = progress_bar("detect", "image", total=len(files) + skipped, initial=skipped)
    writing: deque[Future[None]] = deque()
    # the flush comes last, when no thread writes any more
    with (
        _network(model, options) as (run, images_at_once),
        keep_what_is_done(writer.flush),
        bar,
        ThreadPoolExecutor(1, "write") as pool,
    ):
        # one at a time for rng, so that an image's draw depends on its name alone
        batch_size = 1 if options.mode == "rng" else options.batch_size or images_at_once or model.images_at_once()
        loaded = load_ahead(files, loading, workers, workers + batch_size, failed)
        with contextlib.closing(equal_shapes(loaded, batch_size)) as batches:
            for batch, features in run(batches, waiting):
                keypoints += sum(map(len, features))
                writing.append(pool.submit(write_features, writer, batch, features, options.f16))
                if len(writing) > 2:
                    with waiting("writing"):
                        writing.popleft().result()
                bar.update(len(batch))
            for write in writing:
                write.result()
    return keypoints, failed, waiting.longest()


def _start(model: DISK, batch: _Batch, options: DetectOptions) -> Callable[[], list[Features]]:
    """Start detection in a batch; what is returned waits for its features, in pixels of the images as stored."""
    generator = None
    if options.mode == "rng":
        seed = zlib.crc32(batch[0].file.name.encode())
        generator = torch.Generator(model.device).manual_seed(seed)
    canvases = [image.canvas for image in batch]
    try:
        return model.start(canvases, options, generator, "cpu")
    except Exception as error:
        if _out_of_memory(error):
            height, width = canvases[0].pixels.shape[1:]
            raise DiskError(
                f"{batch[0].file.path} at {width} x {height} in a batch of {len(batch)} does not fit into memory; "
                f"use a smaller {option('max_size')} or {option('batch_size')}"
            ) from error
        raise


def _out_of_memory(error: Exception) -> bool:
    # torch on a GPU, torch on a CPU and onnxruntime have nothing but words in common
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text for words in ("out of memory", "can't allocate memory", "failed to allocate memory")
    )


def write_features(writer: ShardWriter, batch: list[Loaded], found: list[Features], f16: bool) -> None:
    """Store the features of images."""
    for image, features in zip(batch, found, strict=True):
        arrays = {
            KEYPOINTS: features.keypoints.numpy(),
            DESCRIPTORS: features.descriptors.numpy().astype(np.float16 if f16 else np.float32, copy=False),
            SCORES: features.scores.numpy(),
        }
        attributes = {
            "image_size": image.canvas.size,
            "image_path": image.file.relative,
            "orientation": image.canvas.placement.orientation,
            "mask": image.mask,
        }
        writer.add(image.file.name, arrays, attributes)
