"""Where the features under test come from: our network, a baseline, or a folder of artifacts; with a cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, cast

import numpy as np
import torch

from disk.devices import choose_device
from disk.errors import ArtifactError, EvaluationError
from disk.evaluation.baselines import detect_baseline
from disk.evaluation.ground_truth import View
from disk.features import Features, Matches
from disk.images.orientation import AS_STORED, turned, upright_points, upright_size
from disk.images.reading import Upright, image_orientation, image_size, read_image, read_upright
from disk.images.resizing import place
from disk.matching.matcher import ImagePair, MatcherName, make_matcher
from disk.model.checkpoints import cache_folder, load, weights_hash
from disk.pipeline.match import read_lightglue
from disk.progress import log, track
from disk.storage.layouts import HlocFeatures, open_features

# part of every key of the cache: raise it when the same options give other features
_CACHE_VERSION = 3
_CACHE_BYTES = 8 << 30


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Which features are measured, and how they are matched."""

    method: tuple[Literal["disk", "rootsift", "sift", "orb"], ...] = ()
    """Features to find, several side by side; the last three need OpenCV. Default: disk, unless --features."""
    weights: tuple[str, ...] = ("default",)
    """Weights of disk, several side by side: default, depth, epipolar, or .pth or .safetensors files."""
    features: tuple[Path, ...] = ()
    """Features found elsewhere: folders of artifacts in our layout or IMW's, or files in hloc's."""
    n: int = 2048
    """The most keypoints of an image: the best by score."""
    max_size: int = 1600
    """Shrink images whose long side is longer, in pixels; 0: never. Errors are in pixels of the images as stored."""
    matcher: MatcherName = "mnn"
    """mnn: mutual nearest neighbours; lightglue: the learned matcher, for the features of disk."""
    matcher_weights: Path | None = None
    """Weights of LightGlue for DISK; default: fetched."""
    ratio: tuple[float, ...] = (0.85,)
    """Ratios of the nearest to the second nearest distance, two-way; 1: no test. Several: the best is reported."""
    degrade: bool = False
    """Spoil the second image of each pair: gamma 2.2, half the contrast, noise of sigma 0.03."""
    seed: int = 0
    """Of that noise."""
    device: str = "auto"
    """Where the network runs: cpu, cuda, cuda:1, mps; auto: a GPU if there is one."""
    cache: Path | None = None
    """Folder that keeps features, so that measuring again costs no detection; default: in the user's cache folder."""


def open_sources(options: FeatureOptions, folder: str = "") -> list[Source]:
    """All features that the options name. `folder`: look there first in each of --features, for a scene of several.

    Raises DiskError for options that make no sense, missing weights or artifacts.
    """
    _check(options)
    methods = options.method or (() if options.features else ("disk",))
    sources: list[Source] = []
    for method in methods:
        if method == "disk":
            sources += [_network(name, options, alone=len(options.weights) == 1) for name in options.weights]
        else:
            sources.append(DetectedFeatures(method, method, _baseline(method), options))
    for path in options.features:
        inner = path / folder
        sources.append(StoredFeatures(path.name or str(path), inner if folder and inner.exists() else path, options.n))
    return sources


def _check(options: FeatureOptions) -> None:
    if options.n < 1 or options.max_size < 0:
        raise EvaluationError(f"--n {options.n} --max-size {options.max_size}: n is at least 1, max-size at least 0")
    if not options.ratio or not all(0 < ratio <= 1 for ratio in options.ratio):
        raise EvaluationError("--ratio: numbers above 0 and at most 1 (1: no ratio test)")
    if options.matcher == "lightglue" and set(options.method) - {"disk"}:
        raise EvaluationError("--matcher lightglue is for the features of disk; leave the other methods out")
    if options.matcher_weights is not None and options.matcher != "lightglue":
        raise EvaluationError("--matcher-weights is for --matcher lightglue; leave it out")
    if options.degrade and options.features:
        raise EvaluationError("--degrade spoils images, and --features are found already; use --method")


def _network(name: str, options: FeatureOptions, alone: bool) -> DetectedFeatures:
    model = load(name, options.device)

    def detect(image: np.ndarray, n: int) -> Features:
        # resized before, for all methods alike
        return cast(Features, model.detect(image, n=n, max_size=0)).cpu()

    label = "disk" if alone and name == "default" else f"disk {name}"
    key = f"disk {weights_hash(model)} {model.engine.name} {model.device.type}"
    return DetectedFeatures(label, key, detect, options)


def _baseline(method: str) -> Callable[[np.ndarray, int], Features]:
    return lambda image, n: detect_baseline(method, image, n)


class DetectedFeatures:
    """Features found here, and kept in a cache by the content of the image and all that decides them."""

    def __init__(
        self, label: str, key: str, detect: Callable[[np.ndarray, int], Features], options: FeatureOptions
    ) -> None:
        self.label = label
        self._detect, self._options = detect, options
        self._key = f"{_CACHE_VERSION} {key} {options.n} {options.max_size}"
        self._folder = options.cache or cache_folder() / "evaluation"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._hash = lru_cache(maxsize=None)(lambda path: hashlib.sha1(path.read_bytes()).hexdigest())
        self._load = lru_cache(maxsize=128)(self._read)

    def prepare(self, views: Iterable[View]) -> float:
        """Find the features of views that are not there yet; the mean seconds an image takes, or took before."""
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
            os.utime(file)  # in use: the last to be pruned
            return self._read(file)[1]
        except (FileNotFoundError, ValueError, KeyError, zipfile.BadZipFile):
            pass
        image = read_view(view)
        if self._spoilt(view):
            image = Upright(degrade(image.pixels, self._options.seed), image.orientation)
        start = perf_counter()
        features = describe(image, self._detect, self._options.n, self._options.max_size)
        seconds = perf_counter() - start
        arrays = {name: getattr(features, name).numpy() for name in ("keypoints", "descriptors", "scores")}
        temporary = file.with_name(f".{file.name}.{os.getpid()}.npz")
        np.savez(temporary, seconds=seconds, **arrays)
        temporary.replace(file)
        return seconds

    def _spoilt(self, view: View) -> bool:
        return self._options.degrade and view.second

    def _file(self, view: View) -> Path:
        spoilt = f"degraded {self._options.seed}" if self._spoilt(view) else ""
        key = f"{self._key} {view.turns} {spoilt} {self._hash(view.path)}"
        return self._folder / f"{hashlib.sha1(key.encode()).hexdigest()}.npz"

    def _read(self, file: Path) -> tuple[Features, float]:
        with np.load(file) as data:
            keypoints, descriptors, scores = (
                torch.from_numpy(data[name]) for name in ("keypoints", "descriptors", "scores")
            )
            return Features(keypoints, descriptors, scores), float(data["seconds"])


class StoredFeatures:
    """Features found elsewhere, of any layout."""

    def __init__(self, label: str, path: Path, n: int) -> None:
        self.label = label
        self._path, self._n = path, n
        self._store: Any = open_features(path)

    def prepare(self, views: Iterable[View]) -> None:
        """Raise ArtifactError unless all views have features, and scores where the best have to be chosen."""
        names = sorted({view.name for view in views})
        missing = [name for name in names if name not in self._store.names]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ArtifactError(f"{self._path} has no features of {missing[0]!r}{more}")
        if isinstance(self._store, HlocFeatures):  # in the other layouts the best come first
            self._check_scores(self._store, names)

    def _check_scores(self, store: HlocFeatures, names: Sequence[str]) -> None:
        counts = {name: len(store.keypoints(name)) for name in names if not store.has_scores(name)}
        if not counts:
            return
        name = max(counts, key=lambda name: counts[name])
        if counts[name] > self._n:
            raise ArtifactError(
                f"{self._path} has no scores of {name!r}, so the best {self._n} of its {counts[name]} keypoints cannot "
                f"be told; use --n {counts[name]} or more"
            )
        log.warning("%s has no scores of %d images: all of their keypoints are used", self._path, len(counts))

    def features(self, view: View) -> Features:
        """The n best features of a view, with descriptors of unit length."""
        found = self._store[view.name]
        best = torch.argsort(found.scores, descending=True, stable=True)[: self._n]
        descriptors = found.descriptors[best]
        length = torch.linalg.vector_norm(descriptors, dim=1, keepdim=True)
        if (length - 1).abs().max().item() > 1e-2 if len(best) else False:
            descriptors = descriptors / length.clamp(min=1e-9)
        return Features(found.keypoints[best], descriptors, found.scores[best])


Source = DetectedFeatures | StoredFeatures


def read_view(view: View) -> Upright:
    """The image of a view, upright: by the turns of the ground truth if it has any, else by EXIF."""
    if view.turns:
        return Upright(read_image(view.path), AS_STORED).turned(view.turns)
    return read_upright(view.path)


def _upright(view: View, features: Features) -> tuple[Features, tuple[int, int]]:
    """The features of a view in pixels of the upright image, and its (width, height)."""
    orientation = turned(AS_STORED, view.turns) if view.turns else image_orientation(view.path)
    size = image_size(view.path)
    keypoints = torch.from_numpy(upright_points(features.keypoints.numpy(), orientation, size))
    return Features(keypoints, features.descriptors, features.scores), upright_size(orientation, size)


def describe(image: Upright, detect: Callable[[np.ndarray, int], Features], n: int, max_size: int) -> Features:
    """Features of an image after shrinking, in pixels of the image as stored."""
    canvas, placement = place(image.pixels, max_size=max_size, orientation=image.orientation)
    found = detect(canvas, n)
    return Features(placement.to_original(found.keypoints), found.descriptors, found.scores)


def degrade(image: np.ndarray, seed: int) -> np.ndarray:
    """An image (H, W, 3) uint8 at gamma 2.2, half the contrast about its mean, noise of sigma 0.03 (of 1).

    The noise depends on the seed and the image alone.
    """
    rng = np.random.default_rng([seed, zlib.crc32(image.tobytes())])
    dark = (image / 255.0) ** 2.2
    flat = dark.mean() + 0.5 * (dark - dark.mean())
    return np.clip(np.rint((flat + rng.normal(0, 0.03, image.shape)) * 255), 0, 255).astype(np.uint8)


class Matcher:
    """Matches two views of a source, by the options."""

    def __init__(self, options: FeatureOptions) -> None:
        self._learned = options.matcher == "lightglue"
        weights = read_lightglue(options.matcher_weights) if self._learned else None
        # features are read to the CPU, where one pair is matched as fast as it would get to a GPU
        device = choose_device(options.device if self._learned else "cpu")
        # LightGlue knows no ratio test
        self.ratios: tuple[float | None, ...] = (None,) if self._learned else options.ratio
        self._match = {
            ratio: make_matcher(options.matcher, device, None if ratio == 1 else ratio, weights=weights)
            for ratio in self.ratios
        }

    def match(self, source: Source, view0: View, view1: View, ratio: float | None) -> Matches:
        """Matches of one pair at one of `ratios`; 1 or None is no ratio test."""
        f0, f1 = source.features(view0), source.features(view1)
        # nearest neighbours need no positions, and turning them is not free
        images: ImagePair = (f0, f1, None, None)
        if self._learned:
            (upright0, size0), (upright1, size1) = _upright(view0, f0), _upright(view1, f1)
            images = (upright0, upright1, size0, size1)
        return self._match[ratio]([images])[0].between(f0, f1)


def _prune(folder: Path, keep: Collection[Path], limit: int = _CACHE_BYTES) -> None:
    """Delete the features that were not used for longest, beyond the size of the cache."""
    used = sorted(((stat.st_mtime, stat.st_size, file) for file, stat in _files(folder)), reverse=True)
    total = 0
    for _, size, file in used:
        total += size
        if total > limit and file not in keep:
            file.unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for file in folder.glob("*.npz"):
        with contextlib.suppress(FileNotFoundError):  # another run has pruned it
            yield file, file.stat()
