"""Features detected for the evaluation, with a cache so that repeated runs skip detection."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from disk.cache import cache_folder
from disk.errors import EvaluationError
from disk.evaluation.ground_truth import View
from disk.evaluation.options import FeatureOptions
from disk.evaluation.views import degrade, describe, read_view
from disk.features import Features
from disk.images.reading import Upright
from disk.options import option
from disk.progress import track
from disk.storage.new_file import new_file

# part of every cache key: increase it when the same options give different features
_CACHE_VERSION = 3
_CACHE_BYTES = 8 << 30


class DetectedFeatures:
    """Detects features and caches them by image content and everything that affects the result."""

    def __init__(
        self, label: str, key: str, detect: Callable[[np.ndarray, int], Features], options: FeatureOptions
    ) -> None:
        self.label = label
        self._detect, self._options = detect, options
        self._key = f"{_CACHE_VERSION} {key} {options.n} {options.max_size}"
        self._folder = options.cache or cache_folder() / "evaluation"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = "it is a file" if self._folder.is_file() else error.strerror
            raise EvaluationError(
                f"cannot cache features in {self._folder}: {why}; choose another {option('cache')}"
            ) from None
        self._hash = lru_cache(maxsize=None)(lambda path: hashlib.sha1(path.read_bytes()).hexdigest())
        self._load = lru_cache(maxsize=128)(self._read)

    def prepare(self, views: Iterable[View]) -> float:
        """Detect the features of views that are not cached; returns the mean seconds per image, cached or not."""
        needed = {self._file(view): view for view in views}
        seconds = [self._ensure(view) for view in track(list(needed.values()), f"{self.label}: features", "image")]
        _prune(self._folder, keep=needed.keys())
        return float(np.mean(seconds))

    def features(self, view: View) -> Features:
        """Features of a view, in pixels of the image as stored."""
        return self._load(self._file(view))[0]

    def _ensure(self, view: View) -> float:
        file = self._file(view)
        try:
            os.utime(file)  # recently used, so pruned last
            return self._read(file)[1]
        except (FileNotFoundError, ValueError, KeyError, zipfile.BadZipFile):
            pass
        image = read_view(view)
        if self._degraded(view):
            image = Upright(degrade(image.pixels, self._options.seed), image.orientation)
        start = perf_counter()
        features = describe(image, self._detect, self._options.n, self._options.max_size)
        seconds = perf_counter() - start
        arrays = {name: getattr(features, name).numpy() for name in ("keypoints", "descriptors", "scores")}
        with new_file(file, rivals=True) as temporary, temporary.open("wb") as content:
            np.savez(content, seconds=seconds, **arrays)
        return seconds

    def _degraded(self, view: View) -> bool:
        return self._options.degrade and view.second

    def _file(self, view: View) -> Path:
        degraded = f"degraded {self._options.seed}" if self._degraded(view) else ""
        key = f"{self._key} {view.turns} {degraded} {self._hash(view.path)}"
        return self._folder / f"{hashlib.sha1(key.encode()).hexdigest()}.npz"

    def _read(self, file: Path) -> tuple[Features, float]:
        with np.load(file) as data:
            keypoints, descriptors, scores = (
                torch.from_numpy(data[name]) for name in ("keypoints", "descriptors", "scores")
            )
            return Features(keypoints, descriptors, scores), float(data["seconds"])


def _prune(folder: Path, keep: Collection[Path], limit: int = _CACHE_BYTES) -> None:
    """Delete the least recently used features beyond the size limit of the cache."""
    used = sorted(((stat.st_mtime, stat.st_size, file) for file, stat in _files(folder)), reverse=True)
    total = 0
    for _, size, file in used:
        total += size
        if total > limit and file not in keep:
            file.unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for file in folder.glob("*.npz*"):
        with contextlib.suppress(FileNotFoundError):  # another run has pruned it
            yield file, file.stat()
