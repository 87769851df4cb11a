"""Retrying unconnected images at other quarter turns: they may be rotated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from disk.devices import choose_device
from disk.features import Features
from disk.geometry.chance import chance_of_inlier, log10_false_alarms
from disk.geometry.robust import estimate_fundamental
from disk.images.listing import ImageFile, list_images
from disk.images.masks import find_masks
from disk.images.orientation import turned, upright_points, upright_size
from disk.images.reading import image_orientation
from disk.matching.nearest import DEFAULT_RATIO, mutual_nearest
from disk.model.checkpoints import load
from disk.model.disk import DISK
from disk.pairs.choose import Pair
from disk.pipeline.connections import matched_pairs
from disk.pipeline.detect import DetectOptions, write_features
from disk.pipeline.loading import Loaded, load_image
from disk.progress import log, progress_bar
from disk.shapes import Float
from disk.storage.artifacts import (
    DESCRIPTORS,
    INLIERS,
    KEYPOINTS,
    SCORES,
    FeatureStore,
    read_features,
    read_matches,
)
from disk.storage.forget import forget_images
from disk.storage.locks import folder_lock
from disk.storage.new_file import write_json
from disk.storage.shards import ShardWriter

TRIED = "rotations.json"  # the state of verification for which no turn helped any more
_PARTNERS = 20  # images to compare a turned image with
_SAMPLE, _NEIGHBOURS, _GOOD_FIT, _ALIKE = 300, 4, 0.75, 2 / 3
_SURE = 50  # inliers; below, the few matches of rotated images may agree by chance at any angle


@dataclass(frozen=True)
class View:
    """Features of an image in the orientation given to the network: keypoints in its pixels, size (width, height)."""

    keypoints: Float[np.ndarray, "n 2"]
    features: Features
    size: tuple[int, int]


def turn_unconnected(
    artifacts: Path,
    images: Path,
    options: DetectOptions = DetectOptions(),
    max_error: float = 4.0,
    min_inliers: int = 15,
    seed: int = 0,
) -> list[str]:
    """Detect unconnected images again at turns of 90, 180 and 270 degrees; keep turns that connect them.

    Returns the names of the turned images. Deletes their matches, so match, export and verify have to run again.
    options: as in the first detection
    max_error, min_inliers, seed: as in `disk verify`; max_error in pixels

    Raises the errors of reading images and artifacts.
    """
    with folder_lock(artifacts):
        with read_features(artifacts) as store:
            graph = _read_graph(artifacts, store)
            if _state(graph) == _tried(artifacts):
                return []
            loading = _Loading(images, options)
            found = choose_turns(
                graph,
                lambda name: _stored_view(store, name),
                lambda name, turns: _view(*loading(name, turns)),
                lambda view, other: _agreement(view, other, max_error, min_inliers, seed),
            )
            attributes = store.attributes
        if found:
            forget_images(artifacts, found)
            writer = ShardWriter(artifacts, "features", (KEYPOINTS, DESCRIPTORS, SCORES), attributes)
            for name, turns in found.items():
                loaded, features = loading(name, turns)
                write_features(writer, [loaded], [features], options.f16)
                log.info("%s connects when rotated by %d degrees", name, 90 * turns)
            writer.finish()
        else:
            write_json(artifacts / TRIED, _state(graph))
    return sorted(found)


def rotated_images(artifacts: Path, files: Sequence[ImageFile]) -> dict[str, int]:
    """Counter-clockwise rotation of images beyond EXIF, in degrees, by path; unrotated images are omitted."""
    degrees = {}
    with read_features(artifacts) as store:
        there = set(store.names)
        for file in files:
            if file.name in there:
                upright, seen = image_orientation(file.path), store.orientation(file.name)
                degrees[file.relative] = next(90 * turns for turns in range(4) if turned(upright, turns) == seen)
    return {path: angle for path, angle in degrees.items() if angle}


@dataclass(frozen=True)
class Graph:
    """The results of verification.

    names: all images with features
    pairs: all matched pairs
    links: number of inliers of each verified pair, and whether its images have the same orientation
    """

    names: Sequence[str]
    pairs: Sequence[Pair]
    links: Mapping[Pair, tuple[int, bool]]


def choose_turns(
    graph: Graph,
    stored: Callable[[str], View],
    detect: Callable[[str, int], View],
    agreement: Callable[[View, View], int],
) -> dict[str, int]:
    """The quarter turns, counter-clockwise, that connect images to the largest group of equally oriented images.

    A turned image joins the group, so further images may connect to it.
    stored: returns the current features of an image
    detect: returns its features after a number of quarter turns
    agreement: number of inliers of two views, 0 if their orientations differ
    """
    group, rest = _largest_group(graph)
    if not rest:
        return {}
    views = lru_cache(maxsize=4 * _PARTNERS)(stored)
    chosen: dict[str, int] = {}
    seen: dict[str, View] = {}
    with progress_bar("rotations", "try", None) as bar:
        waiting, progress = sorted(rest, key=lambda name: (-_degree(graph, name), name)), True
        while progress:
            progress = False
            for name in list(waiting):
                partners = _partners(graph, name, group)
                scores = {0: sum(graph.links.get(_pair(name, other), (0, False))[0] for other in partners)}
                candidates = {turns: detect(name, turns) for turns in (1, 2, 3)}
                for turns, view in candidates.items():
                    scores[turns] = sum(agreement(view, seen.get(other) or views(other)) for other in partners)
                    bar.update(1)
                best = max(scores, key=scores.__getitem__)
                if best:
                    chosen[name], seen[name] = best, candidates[best]
                    group, progress = group | {name}, True
                    waiting.remove(name)
    return chosen


def _largest_group(graph: Graph) -> tuple[frozenset[str], frozenset[str]]:
    """The largest set of images connected by pairs of equal orientation, and all other images."""
    root = {name: name for name in graph.names}

    def find(name: str) -> str:
        while root[name] != name:
            root[name] = name = root[root[name]]
        return name

    for (first, second), (inliers, alike) in graph.links.items():
        if alike and inliers >= _SURE:
            root[find(first)] = find(second)
    groups: dict[str, set[str]] = {}
    for name in graph.names:
        groups.setdefault(find(name), set()).add(name)
    largest = max(groups.values(), key=lambda group: (len(group), min(group)), default=set())
    return frozenset(largest), frozenset(graph.names) - largest


def _degree(graph: Graph, name: str) -> int:
    return sum(name in pair for pair in graph.links)


def _partners(graph: Graph, name: str, group: frozenset[str]) -> list[str]:
    """Images of the group to compare with: an even sample of those it was matched with."""
    matched = {other for pair in graph.pairs if name in pair for other in pair} - {name}
    partners = sorted(matched & group) or sorted(group)
    return [partners[i] for i in np.unique(np.linspace(0, len(partners) - 1, min(_PARTNERS, len(partners)), dtype=int))]


def _pair(first: str, second: str) -> Pair:
    return (first, second) if first < second else (second, first)


def _agreement(view: View, other: View, max_error: float, min_inliers: int, seed: int) -> int:
    """The number of inliers of two views; 0 if too few, not significant (NFA >= 1), or their orientations differ."""
    matches = mutual_nearest(view.features.descriptors, other.features.descriptors, DEFAULT_RATIO).indices.numpy()
    p0, p1 = view.keypoints[matches[:, 0]], other.keypoints[matches[:, 1]]
    inliers = estimate_fundamental(p0, p1, threshold=max_error, seed=seed)
    count = int(inliers.sum())
    chance = max(chance_of_inlier(*size, max_error) for size in (view.size, other.size))
    if count < min_inliers or log10_false_alarms(len(p0), count, chance) >= 0:
        return 0
    return count if stand_alike(p0[inliers], p1[inliers]) else 0


def stand_alike(p0: Float[np.ndarray, "n 2"], p1: Float[np.ndarray, "n 2"]) -> bool:
    """Whether two views have the same orientation, to 45 degrees, by points of one and their matches in the other.

    True if the best similarity over all points (Umeyama 1991) fits well and rotates by less than 45 degrees; or, for
    wide baselines, if more than two thirds of the vectors from points to their nearest neighbours rotate by less. Wrong
    matches do neither.
    """
    rows = np.unique(np.linspace(0, len(p0) - 1, min(_SAMPLE, len(p0)), dtype=int))
    z0, z1 = ((p[rows] - p.mean(axis=0)).astype(np.float64) @ [1, 1j] for p in (p0, p1))
    fit = np.vdot(z0, z1) / (np.linalg.norm(z0) * np.linalg.norm(z1) + 1e-9)
    if abs(fit) > _GOOD_FIT:
        return bool(abs(np.angle(fit)) < np.pi / 4)
    distance = np.abs(z0[:, None] - z0)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1)[:, :_NEIGHBOURS]
    steps0, steps1 = (z[nearest] - z[:, None] for z in (z0, z1))
    return bool(np.mean(np.abs(np.angle(steps1 * steps0.conj())) < np.pi / 4) > _ALIKE)


class _Loading:
    """Loads images after quarter turns and detects their features."""

    def __init__(self, images: Path, options: DetectOptions) -> None:
        self._files = {file.name: file for file in list_images(images, options.image_extension)}
        self._options = options

    @cached_property
    def _masks(self) -> dict[str, Path]:
        folder = self._options.mask_dir
        return {} if folder is None else find_masks(folder, list(self._files.values()))

    @cached_property
    def _model(self) -> DISK:
        options = self._options
        return load(options.model_path, choose_device(options.device), options.precision, options.backend)

    def __call__(self, name: str, turns: int) -> tuple[Loaded, Features]:
        options = self._options
        file, box = self._files[name], (options.max_size, options.height, options.width)
        loaded = load_image(file, *box, self._masks, turns)
        return loaded, self._model.start([loaded.canvas], options, None, "cpu")()[0]


def _view(loaded: Loaded, features: Features) -> View:
    placement = loaded.canvas.placement
    return _seen(features, placement.orientation, placement.original_size)


def _stored_view(store: FeatureStore, name: str) -> View:
    return _seen(store[name], store.orientation(name), store.image_size(name))


def _seen(features: Features, orientation: int, size: tuple[int, int]) -> View:
    keypoints = upright_points(features.keypoints.numpy(), orientation, size)
    return View(keypoints, features, upright_size(orientation, size))


def _read_graph(artifacts: Path, store: FeatureStore) -> Graph:
    return Graph(store.names, matched_pairs(artifacts), dict(_links(artifacts, store)))


def _links(artifacts: Path, store: FeatureStore) -> Iterator[tuple[Pair, tuple[int, bool]]]:
    @lru_cache(maxsize=1000)
    def upright(name: str) -> np.ndarray:
        return upright_points(store.keypoints(name), store.orientation(name), store.image_size(name))

    with read_matches(artifacts, INLIERS) as inliers:
        for pair in inliers.pairs():
            rows = inliers[pair]
            if rows.shape[1]:
                yield pair, (rows.shape[1], stand_alike(upright(pair[0])[rows[0]], upright(pair[1])[rows[1]]))


def _state(graph: Graph) -> str:
    links: Iterable[object] = sorted(graph.links.items())
    return hashlib.sha1(json.dumps([list(graph.names), *links]).encode()).hexdigest()


def _tried(artifacts: Path) -> str | None:
    try:
        return str(json.loads((artifacts / TRIED).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
