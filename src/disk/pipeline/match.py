"""Matching the features of an image collection: choose pairs, read descriptors once, match, write behind."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch

from disk.devices import choose_device
from disk.errors import ArtifactError, DiskError, PairsError
from disk.features import Features, Matches
from disk.matching.lightglue import LightGlue, fetch_weights
from disk.matching.nearest import mutual_nearest
from disk.model.checkpoints import cache_folder, read_state
from disk.pairs.choose import Pair, exhaustive, from_file, sequential
from disk.pairs.retrieval import retrieval
from disk.pipeline.cluster import Cluster, RayCluster
from disk.pipeline.feature_cache import FeatureCache, order_for_cache
from disk.pipeline.match_writers import MatchWriters
from disk.progress import log, progress_bar
from disk.shapes import Tensor
from disk.storage.artifacts import MATCHES, FeatureStore, read_features
from disk.storage.download import file_hash
from disk.storage.locks import folder_lock
from disk.storage.shards import keep_what_is_done


@dataclass(frozen=True, kw_only=True)
class MatchOptions:
    """How features are matched."""

    rt: float | None = None
    """Ratio test: keep a match if it is closer than this times the second nearest, both ways; None: no test."""
    f16: bool = False
    """Match descriptors in half precision."""
    u16: bool = False
    """Store matches as uint16, a quarter of the size; for images of at most 65535 features."""
    save_threshold: int = 0
    """Do not store pairs with fewer matches; they are remembered in unmatched.h5."""
    max_full_matrix: int = 10000**2
    """At most this many similarities are held at once; never changes the result."""
    pairs: Literal["exhaustive", "sequential", "list", "retrieval"] = "exhaustive"
    """Which images are matched: all pairs, neighbours by name, those of --pairs-file, or those that look alike."""
    overlap: int = 10
    """sequential: images after each one that it is matched with."""
    pairs_file: Path | None = None
    """list: text file of `name0 name1` lines, names with or without extension."""
    top_k: int = 20
    """retrieval: most similar images that each one is matched with."""
    matcher: Literal["mnn", "lightglue"] = "mnn"
    """mnn: exact mutual nearest neighbours; lightglue: the learned matcher, from the extra of that name."""
    matcher_weights: Path | None = None
    """lightglue: file of its weights; default: fetched."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to match; auto: a GPU if there is one."""
    cache_mb: int = 2048
    """Memory for descriptors in megabytes; if all fit, each is read once."""
    ray: RayCluster = "off"
    """auto: on all machines of the Ray cluster this one belongs to; local: on all GPUs of this one, by Ray."""
    overwrite: bool = False
    """Delete the matches in the folder and start anew."""


@dataclass(frozen=True)
class MatchSummary:
    """What a run did: pairs chosen, those matched now, those of them stored, their matches, images read."""

    pairs: int
    matched: int
    stored: int
    matches: int
    images_read: int


# takes the features of both images, or what stands for them on a cluster, and for lightglue their sizes
Matcher = Callable[..., Matches]
LightGlueWeights = tuple[dict[str, Tensor], Path]
Task = tuple[Pair, tuple[Any, ...]]
Run = Callable[[Iterable[Task]], Generator[tuple[Pair, Matches], None, None]]


def match(artifacts: Path, options: MatchOptions = MatchOptions()) -> MatchSummary:
    """Match pairs of images of a folder of artifacts: matches.h5.

    Pairs already done are skipped, so the same command goes on after an interruption. Raises ArtifactError when
    there are no features or the matches there were made otherwise, PairsError when pairs cannot be chosen.
    """
    check_match(options)
    lightglue = _read_lightglue(options) if options.matcher == "lightglue" else None
    start = perf_counter()
    with read_features(artifacts) as store, folder_lock(artifacts):
        counts = {name: len(store.keypoints(name)) for name in store.names}
        _check_u16(options, counts)
        writers = MatchWriters(
            artifacts, _decisive(options, lightglue, store), options.save_threshold, options.u16, options.overwrite
        )
        # on a cluster this machine's own device is for the choice of pairs alone
        device = choose_device(options.device if options.ray == "off" else "cpu")
        limit = options.cache_mb << 20
        cache: FeatureCache[Any] = FeatureCache(store, limit, options.f16, lambda features: features.to(device))
        pairs = _choose_pairs(options, cache)
        todo = [pair for pair in pairs if not writers.is_done(pair)]
        if todo:
            with _workers(options, device, lightglue) as (run, share):
                if share:
                    cache = FeatureCache(store, limit, options.f16, share)
                todo = order_for_cache(todo, counts, _capacity(cache, counts, limit))
                tasks = _tasks(todo, cache, store, sizes=options.matcher == "lightglue")
                _match_all(run(tasks), writers, len(pairs), len(pairs) - len(todo))
        writers.finish()
    summary = MatchSummary(len(pairs), len(todo), writers.stored, writers.matches, cache.reads)
    _report(summary, artifacts, perf_counter() - start)
    return summary


def check_match(options: MatchOptions) -> None:
    """Raise DiskError for a value that cannot be used."""
    for name, least in {"save_threshold": 0, "max_full_matrix": 1, "overlap": 1, "top_k": 1, "cache_mb": 1}.items():
        if getattr(options, name) < least:
            raise DiskError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least {least}")
    if options.rt is not None and not 0 < options.rt <= 1:
        raise DiskError(f"--rt {options.rt:g}: must be above 0 and at most 1, or None for no ratio test")
    if options.matcher == "lightglue" and options.rt is not None:
        raise DiskError("--rt is for nearest neighbours; leave it out with --matcher lightglue")
    if options.matcher != "lightglue" and options.matcher_weights is not None:
        raise DiskError("--matcher-weights is for --matcher lightglue; leave it out")
    if (options.pairs == "list") != (options.pairs_file is not None):
        raise PairsError("--pairs list and --pairs-file FILE go together")
    if options.pairs_file is not None and not options.pairs_file.is_file():
        raise PairsError(f"cannot read the pairs in {options.pairs_file}: no such file")


def _check_u16(options: MatchOptions, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        if options.u16 and count > np.iinfo(np.uint16).max:
            raise ArtifactError(f"{name!r} has {count} features, more than --u16 can number; leave --u16 out")


def _capacity(cache: FeatureCache[Any], counts: dict[str, int], limit: int) -> int:
    """How many features fit into the cache."""
    largest = max(counts, key=lambda name: counts[name])
    return limit * counts[largest] // max(1, cache.size_in_bytes(largest))


def _choose_pairs(options: MatchOptions, cache: FeatureCache[Features]) -> list[Pair]:
    if options.pairs_file is not None:
        return from_file(options.pairs_file, cache.names)
    if options.pairs == "sequential":
        return sequential(cache.names, options.overlap)
    if options.pairs == "retrieval":
        return retrieval(cache, options.top_k)
    return exhaustive(cache.names)


def _decisive(options: MatchOptions, lightglue: LightGlueWeights | None, store: FeatureStore) -> str:
    """What decides the matches of a pair, as JSON: a run only goes on with the same values."""
    chosen = {name: getattr(options, name) for name in ("rt", "f16", "u16", "save_threshold", "matcher")}
    if lightglue:
        chosen["matcher_weights"] = file_hash(lightglue[1], "sha256")[:16]
    detected = {"weights": store.attributes.get("weights"), **json.loads(store.attributes.get("options", "{}"))}
    return json.dumps(chosen | {f"features' {name}": value for name, value in detected.items()})


def _tasks(pairs: list[Pair], cache: FeatureCache[Any], store: FeatureStore, sizes: bool) -> Iterator[Task]:
    for pair in pairs:
        yield pair, tuple(map(cache.__getitem__, pair)) + (tuple(map(store.image_size, pair)) if sizes else ())


@contextlib.contextmanager
def _workers(
    options: MatchOptions, device: torch.device, lightglue: LightGlueWeights | None
) -> Iterator[tuple[Run, Callable[[Features], Any] | None]]:
    """What matches pairs, and where they are not matched here, what hands the features of an image over."""
    if options.ray != "off":
        make = partial(_make_matcher, options, lightglue, options.max_full_matrix)
        with Cluster(options.ray, make, options.device, cores=1) as cluster:
            yield cluster.map, cluster.share
        return
    workers = torch.get_num_threads() if options.matcher == "mnn" and device.type == "cpu" else 1
    matcher = _make_matcher(options, lightglue, max(1, options.max_full_matrix // workers))
    with _one_core_each(workers):
        yield partial(_in_threads, matcher, workers), None


def _make_matcher(options: MatchOptions, lightglue: LightGlueWeights | None, entries: int) -> Matcher:
    """What matches two images, here or in a worker of a cluster."""
    device = choose_device(options.device)
    if lightglue is not None:
        network = LightGlue(lightglue[0], device, options.f16, lightglue[1])
        return lambda f0, f1, size0, size1: network.match(f0, f1, size0, size1).to("cpu")

    def nearest(f0: Features, f1: Features) -> Matches:
        d0, d1 = f0.descriptors.to(device), f1.descriptors.to(device)
        return mutual_nearest(d0, d1, options.rt, entries).to("cpu")

    return nearest


def _read_lightglue(options: MatchOptions) -> LightGlueWeights:
    path = options.matcher_weights or fetch_weights(cache_folder())
    return read_state(path), path


@contextlib.contextmanager
def _one_core_each(workers: int) -> Iterator[None]:
    """Let each worker compute on one core: faster than many cores on each of the small steps of one pair."""
    before = torch.get_num_threads()
    if workers > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_threads(matcher: Matcher, workers: int, tasks: Iterable[Task]) -> Generator[tuple[Pair, Matches], None, None]:
    """The matches of each task, in order."""
    waiting: deque[tuple[Pair, Future[Matches]]] = deque()
    pool = ThreadPoolExecutor(workers, "match")
    try:
        for pair, arguments in tasks:
            waiting.append((pair, pool.submit(matcher, *arguments)))
            if len(waiting) > 2 * workers:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _match_all(
    found: Generator[tuple[Pair, Matches], None, None], writers: MatchWriters, total: int, skipped: int
) -> None:
    bar = progress_bar("match", "pair", total, skipped)
    try:
        with keep_what_is_done(writers.flush), bar, contextlib.closing(found):
            for pair, matches in found:
                writers.add(pair, matches)
                bar.update(1)
    except torch.OutOfMemoryError as error:
        message = "the GPU's memory does not suffice; lower --max-full-matrix or --cache-mb"
        raise DiskError(message) from error


def _report(summary: MatchSummary, artifacts: Path, seconds: float) -> None:
    if summary.pairs == 0:
        log.warning("%s has no two images to match", artifacts)
    rate = f" at {summary.matched / seconds:.1f} pairs/s" if summary.matched else ""
    log.info(
        "%d pairs: %d matched now%s, %d stored with %d matches; in %s",
        summary.pairs, summary.matched, rate, summary.stored, summary.matches, artifacts / MATCHES,
    )  # fmt: skip
