"""Detection in a folder of images: decode ahead, batch equal shapes, run the network, write in the background."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

from disk.devices import choose_device, usable_cores
from disk.errors import ArtifactError, CheckpointError, ImageError, PartialFailureError
from disk.features import Features
from disk.images.listing import ImageFile, images_in_images, list_images, named, unused_files
from disk.images.masks import find_masks, mask_digest
from disk.model.checkpoints import load, weights_hash
from disk.model.disk import DISK
from disk.model.engine import Backend, resolve_precision
from disk.model.options import DetectionOptions
from disk.options import AnyPath, check_at_least, option
from disk.pipeline.batches import Waiting, network
from disk.pipeline.follow import follow_folder
from disk.pipeline.loading import Loaded, equal_shapes, is_large, load_ahead, load_image
from disk.pipeline.options import ChosenImages, MaskFolder, Network, Place
from disk.pipeline.precheck import check_readable
from disk.progress import counted, log, progress_bar
from disk.storage.artifacts import DESCRIPTORS, KEYPOINTS, SCORES, artifacts_folder, feature_writer
from disk.storage.forget import forget_images
from disk.storage.locks import folder_lock
from disk.storage.shards import SHARD_BYTES, ShardWriter, keep_what_is_done

# options that determine the features; a run resumes only with the same values
_DECISIVE = ("height", "width", "max_size", "window", "subpixel", "mode", "f16")


@dataclass(frozen=True, kw_only=True)
class DetectOptions(Place, Network, MaskFolder, ChosenImages, DetectionOptions):
    """How to detect features in a folder."""

    desc_dim: int = 128
    """Length of a descriptor; must match the checkpoint."""
    f16: bool = False
    """Store descriptors as float16, half the size."""
    detection_scores: bool = False
    """Accepted for compatibility with the original: scores.h5 is always written."""
    backend: Backend = "auto"
    """auto: onnxruntime on a CPU in fp32, torch otherwise."""
    batch_size: int = 0
    """Equally sized images at once; 0: one per core on a CPU, a full batch on a GPU; fewer if memory is short."""
    workers: int = 0
    """Number of threads that decode images; 0: one per core, at most eight."""
    overwrite: bool = False
    """Delete the features in the folder and their matches, and start over."""
    keep_going: bool = False
    """Exit with 0 even when some images could not be read."""


@dataclass(frozen=True)
class DetectSummary:
    """What a run did.

    images: number in the folder
    detected: number of images processed in this run
    keypoints: their total number
    failed: images that could not be read, and why
    stale: images processed again because they or their masks changed
    unused: other files in the folder, by extension
    """

    images: int
    detected: int
    keypoints: int
    failed: dict[str, str]
    stale: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def detect(
    artifacts: AnyPath,
    images: AnyPath,
    options: DetectOptions = DetectOptions(),
    only: Collection[str] | None = None,
) -> DetectSummary:
    """Detect features in all images of a folder; write keypoints.h5, descriptors.h5 and scores.h5.

    Skips finished, unchanged images, so the same call resumes after an interruption.
    artifacts: folder for the results
    images: folder of images, sub-folders included
    only: names of the images to process; default: all

    Raises PartialFailureError if some images could not be read and the rest is done.
    """
    check_detect(options)
    artifacts, images = artifacts_folder(artifacts), Path(images)
    files = list_images(images, options.image_extension)
    check_readable(files)
    unused = unused_files(images, files)
    if only is not None:
        files = [file for file in files if file.name in only]
    if unused:
        log.info("ignoring other files in %s: %s", images, unused)
    masks = {} if options.mask_dir is None else find_masks(options.mask_dir, files)
    device = choose_device(options.device if options.ray == "off" else "cpu")
    model = load(options.model_path, device, options.precision, options.backend)
    if model.desc_dim != options.desc_dim:
        raise CheckpointError(
            f"{options.model_path} has descriptors of length {model.desc_dim}: use {option('desc_dim', model.desc_dim)}"
        )
    if options.ray == "off":
        model.engine  # noqa: B018  # fails before anything is written if it cannot run
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
    """Delete the features of images whose mask has changed; return the names of these images."""
    before = {name: digest or "" for name, digest in writer.values("mask").items()}
    stale = sorted(name for name, digest in before.items() if digest != mask_digest(masks.get(name)))
    if stale:
        log.warning("masks have changed; detecting these images again: %s", named(stale))
        forget_images(artifacts, stale)
    return stale


def check_detect(options: DetectOptions) -> None:
    """Raise DiskError for a value that cannot be used."""
    options.check()
    check_at_least(options, batch_size=0, workers=0)
    if options.mask_dir is not None and not options.mask_dir.is_dir():
        what = "is a file" if options.mask_dir.exists() else "does not exist"
        raise ImageError(f"mask folder {options.mask_dir} {what}")


def _check_names(done: set[str], files: list[ImageFile], artifacts: Path) -> None:
    for folder, name in images_in_images(done | {file.name for file in files}):
        raise ArtifactError(
            f"{artifacts} cannot store both images {folder!r} and {name!r}, and one exists from an earlier run; "
            f"use another folder, or {option('overwrite', True)}"
        )


def _report(summary: DetectSummary, artifacts: Path, seconds: float, slowest: str, keep_going: bool) -> None:
    done = "none detected in this run" if summary.failed else "nothing left to detect"
    if summary.detected:
        done = f"{summary.detected} detected in this run with {summary.keypoints} keypoints"
        done += f", {summary.detected / seconds:.2f} images/s" + (f", limited by {slowest}" if slowest else "")
    log.info("%s: %s; in %s", counted(summary.images, "image"), done, artifacts)
    if not summary.failed:
        return
    if len(summary.failed) == summary.images:
        first = next(iter(summary.failed.values()))
        raise ImageError(f"none of the images could be used ({summary.images}); the first: {first}")
    names = list(summary.failed)
    message = f"{len(names)} of {counted(summary.images, 'image')} could not be read: {named(names)}; the rest is done"
    if not keep_going:
        raise PartialFailureError(message, summary)
    log.warning("%s", message)


def _detect_all(
    files: list[ImageFile],
    masks: dict[str, Path],
    model: DISK,
    writer: ShardWriter,
    options: DetectOptions,
    skipped: int,
) -> tuple[int, dict[str, str], str]:
    """Detect in all files; return the number of keypoints, the unreadable images with reasons, and the bottleneck."""
    failed: dict[str, str] = {}
    keypoints = 0
    workers = options.workers or min(8, usable_cores())
    loading = partial(
        load_image,
        max_size=options.max_size,
        height=options.height,
        width=options.width,
        masks=masks,
    )
    large = partial(is_large, max_size=options.max_size, height=options.height, width=options.width)
    waiting = Waiting()
    bar = progress_bar("detect", "image", total=len(files) + skipped, initial=skipped)
    writing: deque[Future[None]] = deque()
    # the flush runs last, after the writing thread has ended
    with (
        network(model, options, options) as (run, images_at_once),
        keep_what_is_done(writer.flush),
        bar,
        ThreadPoolExecutor(1, "write") as pool,
    ):
        # one at a time for rng, so that an image's draw depends only on its name
        batch_size = 1 if options.mode == "rng" else options.batch_size or images_at_once
        loaded = load_ahead(files, loading, workers, workers + batch_size, failed, large)
        with (
            contextlib.closing(equal_shapes(loaded, batch_size)) as batches,
            contextlib.closing(run(batches, waiting)) as found,
        ):
            for batch, features in found:
                keypoints += sum(map(len, features))
                writing.append(pool.submit(write_features, writer, batch, features, options.f16))
                if len(writing) > 2:
                    with waiting("writing"):
                        writing.popleft().result()
                bar.update(len(batch))
            for write in writing:
                write.result()
    return keypoints, failed, waiting.longest()


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
