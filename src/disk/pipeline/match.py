"""Matching the features of an image collection: choose pairs, read descriptors once, match, write behind."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from disk.errors import ArtifactError, DiskError, PairsError
from disk.features import Matches
from disk.matching.lightglue import LightGlue, fetch_weights
from disk.matching.nearest import mutual_nearest
from disk.model.backend import choose_device
from disk.model.checkpoints import cache_folder, read_state
from disk.pairs.choose import Pair, exhaustive, from_file, sequential
from disk.pairs.retrieval import retrieval
from disk.pipeline.feature_cache import FeatureCache, order_for_cache, size_in_bytes
from disk.progress import log, progress_bar
from disk.storage.artifacts import MATCHES, UNMATCHED, FeatureStore, read_features
from disk.storage.download import file_hash
from disk.storage.locks import folder_lock
from disk.storage.names import encode_name
from disk.storage.new_file import new_h5
from disk.storage.shards import SHARD_BYTES, ShardWriter

_LOG_EVERY = 30.0  # seconds between lines of progress where there is no terminal


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


# reads the features of a pair, and returns what is left to do in a worker
Matcher = Callable[[Pair], Callable[[], Matches]]


def match(artifacts: Path, options: MatchOptions = MatchOptions()) -> MatchSummary:
    """Match pairs of images of a folder of artifacts: matches.h5.

    Pairs already done are skipped, so the same command goes on after an interruption. Raises ArtifactError when
    there are no features or the matches there were made otherwise, PairsError when pairs cannot be chosen.
    """
    check_match(options)
    device = choose_device(options.device)
    start = perf_counter()
    with read_features(artifacts) as store, folder_lock(artifacts):
        counts = {name: len(store.keypoints(name)) for name in store.names}
        _check_u16(options, counts)
        limit = options.cache_mb << 20
        cache = FeatureCache(store, limit, device, options.f16)
        workers = torch.get_num_threads() if options.matcher == "mnn" and device.type == "cpu" else 1
        matcher = _make_matcher(options, cache, store, device, workers)
        writers = _Writers(artifacts, options, store.attributes)
        pairs = _choose_pairs(options, cache)
        todo = [pair for pair in pairs if _key(pair) not in writers.done]
        if todo:
            todo = order_for_cache(todo, counts, _capacity(cache, counts, limit))
        with _one_core_each(workers):
            _match_all(todo, matcher, writers, workers, skipped=len(pairs) - len(todo))
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


def _capacity(cache: FeatureCache, counts: dict[str, int], limit: int) -> int:
    """How many features fit into the cache."""
    largest = max(counts, key=lambda name: counts[name])
    return limit * counts[largest] // max(1, size_in_bytes(cache[largest]))


def _choose_pairs(options: MatchOptions, cache: FeatureCache) -> list[Pair]:
    if options.pairs_file is not None:
        return from_file(options.pairs_file, cache.names)
    if options.pairs == "sequential":
        return sequential(cache.names, options.overlap)
    if options.pairs == "retrieval":
        return retrieval(cache, options.top_k)
    return exhaustive(cache.names)


def _make_matcher(
    options: MatchOptions, cache: FeatureCache, store: FeatureStore, device: torch.device, workers: int
) -> Matcher:
    if options.matcher == "mnn":
        entries = max(1, options.max_full_matrix // workers)

        def nearest(pair: Pair) -> Callable[[], Matches]:
            d0, d1 = cache[pair[0]].descriptors, cache[pair[1]].descriptors
            return lambda: mutual_nearest(d0, d1, options.rt, entries)

        return nearest

    path = _lightglue_weights(options)
    network = LightGlue(read_state(path), device, options.f16, path)

    def learned(pair: Pair) -> Callable[[], Matches]:
        f0, f1 = cache[pair[0]], cache[pair[1]]
        size0, size1 = store.image_size(pair[0]), store.image_size(pair[1])
        return lambda: network.match(f0, f1, size0, size1)

    return learned


def _lightglue_weights(options: MatchOptions) -> Path:
    return options.matcher_weights or fetch_weights(cache_folder())


class _Writers:
    """matches.h5, and the pairs with too few matches in unmatched.h5: for each, how many there were."""

    def __init__(self, artifacts: Path, options: MatchOptions, features: dict[str, str]) -> None:
        attributes = {"format": "disk matches 1", "options": json.dumps(_decisive(options, features))}
        self._path, self._attributes = artifacts / MATCHES, attributes
        self._matches, self._unmatched = (
            ShardWriter(artifacts, Path(file).stem, [file], attributes, options.overwrite, SHARD_BYTES)
            for file in (MATCHES, UNMATCHED)
        )
        self._threshold, self._dtype = options.save_threshold, np.uint16 if options.u16 else np.int64
        self.done = self._matches.done() | self._unmatched.done()
        self.stored = self.matches = 0

    def add(self, pair: Pair, matches: Matches) -> None:
        # or an interruption would leave matches of now beside pairs without them of then
        self._unmatched.remove_old()
        indices = matches.indices.T.contiguous().cpu().numpy()
        if len(matches) < self._threshold:
            self._unmatched.add(_key(pair), {UNMATCHED: np.array(len(matches))})
            return
        self._matches.add(_key(pair), {MATCHES: indices.astype(self._dtype, copy=False)})
        self.stored += 1
        self.matches += len(matches)

    def flush(self) -> None:
        self._matches.flush()
        self._unmatched.flush()

    def finish(self) -> None:
        self._matches.finish()
        self._unmatched.finish()
        if not self._path.exists():  # not one pair was stored; those who read matches shall find that
            with new_h5(self._path) as file:
                file.attrs.update(self._attributes)


def _decisive(options: MatchOptions, features: dict[str, str]) -> dict[str, Any]:
    """What decides the matches of a pair: a run only goes on with the same values."""
    chosen = {name: getattr(options, name) for name in ("rt", "f16", "u16", "save_threshold", "matcher")}
    if options.matcher == "lightglue":
        chosen["matcher_weights"] = file_hash(_lightglue_weights(options), "sha256")[:16]
    detected = {"weights": features.get("weights"), **json.loads(features.get("options", "{}"))}
    return chosen | {f"features' {name}": value for name, value in detected.items()}


def _key(pair: Pair) -> str:
    return f"{encode_name(pair[0])}/{encode_name(pair[1])}"


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


def _match_all(pairs: list[Pair], matcher: Matcher, writers: _Writers, workers: int, skipped: int) -> None:
    waiting: deque[tuple[Pair, Future[Matches]]] = deque()
    progress = _Progress(len(pairs), skipped)
    with progress.bar, ThreadPoolExecutor(workers, "match") as pool:

        def finish_one() -> None:
            pair, future = waiting.popleft()
            writers.add(pair, future.result())
            progress.step()

        try:
            for pair in pairs:
                waiting.append((pair, pool.submit(matcher(pair))))
                if len(waiting) > 2 * workers:
                    finish_one()
            while waiting:
                finish_one()
        except BaseException as error:
            # interrupted: keep what is done; a full disk has been reported by the first error
            pool.shutdown(cancel_futures=True)
            with contextlib.suppress(ArtifactError):
                writers.flush()
            if isinstance(error, torch.OutOfMemoryError):
                message = "the GPU's memory does not suffice; lower --max-full-matrix or --cache-mb"
                raise DiskError(message) from error
            raise


class _Progress:
    """A bar with pairs/s and time left; without a terminal a line every half minute."""

    def __init__(self, todo: int, skipped: int) -> None:
        self.bar = progress_bar("match", "pair", total=todo + skipped, initial=skipped)
        self._todo, self._skipped, self._matched = todo, skipped, 0
        self._start = self._logged = perf_counter()

    def step(self) -> None:
        self.bar.update(1)
        self._matched += 1
        now = perf_counter()
        if self.bar.disable and now - self._logged > _LOG_EVERY:
            self._logged = now
            rate = self._matched / (now - self._start)
            left = tqdm.format_interval((self._todo - self._matched) / rate)
            done, total = self._matched + self._skipped, self._todo + self._skipped
            log.info("match: %d of %d pairs, %.1f pairs/s, %s left", done, total, rate, left)


def _report(summary: MatchSummary, artifacts: Path, seconds: float) -> None:
    if summary.pairs == 0:
        log.warning("%s has no two images to match", artifacts)
    rate = f" at {summary.matched / seconds:.1f} pairs/s" if summary.matched else ""
    log.info(
        "%d pairs: %d matched now%s, %d stored with %d matches; in %s",
        summary.pairs, summary.matched, rate, summary.stored, summary.matches, artifacts / MATCHES,
    )  # fmt: skip
