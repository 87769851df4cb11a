"""Matching the features of an image collection: choose pairs, cache descriptors, match, write."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from disk.ahead import map_ahead
from disk.cache import cache_folder
from disk.devices import choose_device
from disk.errors import ArtifactError, DiskError
from disk.features import Features, Matches
from disk.matching.lightglue import fetch_weights
from disk.matching.matcher import ImagePair, Matcher, make_matcher
from disk.model.checkpoints import read_state
from disk.options import AnyPath, option
from disk.pairs.choose import Pair
from disk.pipeline.cluster import Cluster
from disk.pipeline.feature_cache import FeatureCache, order_for_cache, upright_image_size
from disk.pipeline.match_options import MatchOptions, check_match, only_for_other_pairs, ratio_of, threshold_of
from disk.pipeline.match_writers import MatchWriters
from disk.pipeline.pair_choice import choose_pairs, forget_pairs_but
from disk.pipeline.unused import log_unused, unused_flags
from disk.progress import counted, log, progress_bar
from disk.shapes import Tensor
from disk.storage.artifacts import MATCHES, FeatureStore, artifacts_folder, read_features
from disk.storage.download import file_hash
from disk.storage.locks import folder_lock
from disk.storage.shards import keep_what_is_done


@dataclass(frozen=True)
class MatchSummary:
    """What a run did.

    pairs: number of chosen pairs
    matched: number of pairs matched in this run
    stored: number of those with enough matches
    matches: number of matches of the stored pairs together
    images_read: number of times an image's features were read
    """

    pairs: int
    matched: int
    stored: int
    matches: int
    images_read: int


_BATCH = 64  # pairs matched at once on a GPU, if their similarities fit

LightGlueWeights = tuple[dict[str, Tensor], Path]
# the features of both images (on a cluster references to them) and, for lightglue, the image sizes
Task = tuple[Pair, ImagePair]
Run = Callable[[Iterable[Task]], Generator[tuple[Pair, Matches], None, None]]


def match(artifacts: AnyPath, options: MatchOptions = MatchOptions(), forget_others: bool = False) -> MatchSummary:
    """Match pairs of images in an artifacts folder and write matches.h5 there.

    Skips finished pairs, so the same call resumes after an interruption.
    forget_others: delete matches and inliers of pairs that earlier runs chose but this one does not

    Raises ArtifactError if there are no features or the matches were made with other options, PairsError if pairs
    cannot be chosen.
    """
    check_match(options)
    log_unused(unused_flags(options, only_for_other_pairs(options.pairs)))
    lightglue = read_lightglue(options.matcher_weights) if options.matcher == "lightglue" else None
    start = perf_counter()
    artifacts = artifacts_folder(artifacts)
    with read_features(artifacts) as store, folder_lock(artifacts):
        counts = {name: len(store.keypoints(name)) for name in store.names}
        _check_u16(options, counts)
        writers = MatchWriters(
            artifacts,
            _decisive(options, lightglue, store),
            threshold_of(options),
            options.u16,
            options.overwrite,
            counts,
        )
        # on a cluster this machine only chooses the pairs
        device = choose_device(options.device if options.ray == "off" else "cpu")
        limit = options.cache_mb << 20
        cache: FeatureCache[Any] = FeatureCache(store, limit, options.f16, lambda features: features.to(device))
        pairs = choose_pairs(options, cache, store)
        if forget_others:
            forget_pairs_but(artifacts, set(pairs))
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


def _check_u16(options: MatchOptions, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        if options.u16 and count > np.iinfo(np.uint16).max:
            raise ArtifactError(f"{name!r} has {count} features, more than {option('u16')} can index; leave it out")


def _capacity(cache: FeatureCache[Any], counts: dict[str, int], limit: int) -> int:
    """The number of features that fit into the cache."""
    largest = max(counts, key=lambda name: counts[name])
    return limit * counts[largest] // max(1, cache.size_in_bytes(largest))


def _decisive(options: MatchOptions, lightglue: LightGlueWeights | None, store: FeatureStore) -> str:
    """The options that determine the matches of a pair, as JSON; a run resumes only with the same values."""
    chosen = {name: getattr(options, name) for name in ("f16", "u16", "matcher")}
    chosen |= {"rt": ratio_of(options), "save_threshold": threshold_of(options)}
    if lightglue:
        chosen["matcher_weights"] = file_hash(lightglue[1], "sha256")[:16]
    detected = {"weights": store.attributes.get("weights"), **store.options}
    return json.dumps(chosen | {f"features' {name}": value for name, value in detected.items()})


def _tasks(pairs: list[Pair], cache: FeatureCache[Any], store: FeatureStore, sizes: bool) -> Iterator[Task]:
    for first, second in pairs:
        size0, size1 = (upright_image_size(store, first), upright_image_size(store, second)) if sizes else (None, None)
        yield (first, second), (cache[first], cache[second], size0, size1)


@contextlib.contextmanager
def _workers(
    options: MatchOptions, device: torch.device, lightglue: LightGlueWeights | None
) -> Iterator[tuple[Run, Callable[[Features], Any] | None]]:
    """The function that matches pairs and, on a cluster, the function that sends features to it."""
    if options.ray != "off":
        with Cluster(options.ray, partial(_one_pair, options, lightglue), options.device, cores=1) as cluster:
            yield cluster.map, cluster.share
        return
    workers = torch.get_num_threads() if options.matcher == "mnn" and device.type == "cpu" else 1
    matcher = _matcher(options, lightglue, max(1, options.max_full_matrix // workers))
    batch = 1 if device.type == "cpu" else _BATCH
    with _one_core_each(workers):
        yield lambda tasks: _in_threads(matcher, workers, _batches(tasks, batch, options.max_full_matrix)), None


def _matcher(options: MatchOptions, lightglue: LightGlueWeights | None, entries: int) -> Matcher:
    device = choose_device(options.device)
    return make_matcher(
        options.matcher, device, ratio_of(options), weights=lightglue, half=options.f16, max_entries=entries
    )


def _one_pair(options: MatchOptions, lightglue: LightGlueWeights | None) -> Callable[..., Matches]:
    """The function that matches one pair in a cluster worker; its arguments are the parts of an ImagePair."""
    matcher = _matcher(options, lightglue, options.max_full_matrix)
    return lambda *pair: matcher([pair])[0]


def read_lightglue(path: Path | None) -> LightGlueWeights:
    """Read LightGlue's weights; return them with their file. Downloads them if no file is given.

    Raises CheckpointError if they cannot be read.
    """
    path = path or fetch_weights(cache_folder())
    return read_state(path), path


@contextlib.contextmanager
def _one_core_each(workers: int) -> Iterator[None]:
    """Let each worker use one core: faster than spreading the small steps of one pair over many cores."""
    before = torch.get_num_threads()
    if workers > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _batches(tasks: Iterable[Task], most: int, entries: int) -> Iterator[list[Task]]:
    """Batches of at most `most` tasks and at most `entries` similarities; a larger task is a batch by itself."""
    batch: list[Task] = []
    held = 0
    for task in tasks:
        size = len(task[1][0]) * len(task[1][1])
        if batch and (len(batch) == most or held + size > entries):
            yield batch
            batch, held = [], 0
        batch.append(task)
        held += size
    if batch:
        yield batch


def _in_threads(
    matcher: Matcher, workers: int, batches: Iterable[list[Task]]
) -> Generator[tuple[Pair, Matches], None, None]:
    """The matches of each task, in order."""

    def match_batch(batch: list[Task]) -> list[tuple[Pair, Matches]]:
        found = matcher([images for _, images in batch])
        return [(pair, matches) for (pair, _), matches in zip(batch, found, strict=True)]

    with contextlib.closing(map_ahead(match_batch, batches, workers, 2 * workers + 1)) as found:
        for matches in found:
            yield from matches


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
        raise DiskError(f"out of GPU memory; lower {option('max_full_matrix')} or {option('cache_mb')}") from error


def _report(summary: MatchSummary, artifacts: Path, seconds: float) -> None:
    if summary.pairs == 0:
        log.warning("%s has fewer than two images to match", artifacts)
    done = "nothing left to match"
    if summary.matched:
        done = f"{summary.matched} matched in this run at {summary.matched / seconds:.1f} pairs/s"
        done += f", {summary.stored} stored with {counted(summary.matches, 'match', 'matches')}"
    log.info("%s: %s; in %s", counted(summary.pairs, "pair"), done, artifacts / MATCHES)
