"""Batches of pairs, as used on a GPU."""

from __future__ import annotations

import itertools

import torch
from made_features import COUNTS, contents, make_artifacts

import disk.pipeline.match as stage
from disk.features import Matches
from disk.matching.nearest import _match_batch
from disk.pipeline.match import match
from disk.pipeline.match_options import MatchOptions
from disk.storage.artifacts import read_features


def test_batches_of_a_gpu_are_bounded_and_lose_nothing(artifacts):
    with read_features(artifacts) as store:
        features = {name: store[name] for name in COUNTS}
    pairs = list(itertools.combinations(sorted(COUNTS), 2))
    tasks = [(pair, (features[pair[0]], features[pair[1]], None, None)) for pair in pairs]
    for most, entries in ((64, 10**9), (3, 10**9), (64, 1300), (64, 1)):
        batches = list(stage._batches(iter(tasks), most, entries))
        assert [task for batch in batches for task in batch] == tasks
        for batch in batches:
            size = sum(len(f0) * len(f1) for _, (f0, f1, *_) in batch)
            assert len(batch) <= most
            assert size <= entries or len([None for _, (f0, f1, *_) in batch if len(f0) * len(f1)]) == 1
    assert len(list(stage._batches(iter(tasks), 64, 10**9))) == 1
    assert len(list(stage._batches(iter(tasks), 3, 10**9))) == 4


def as_a_batch(pairs, ratio=None, entries=None, device=None):
    """The GPU path on the CPU: all pairs that have features in one batch."""
    found = iter(pairs)
    some = [pair for pair in found if len(pair[0]) and len(pair[1])]
    matches, counts = _match_batch(some, ratio, entries) if some else (None, [])
    parts = iter(matches.indices.split(counts) if some else ())
    none = torch.empty(0, 2, dtype=torch.int64)
    indices = [next(parts) if len(d0) and len(d1) else none for d0, d1 in pairs]
    return [Matches(part, torch.zeros(len(part))) for part in indices]


def test_batches_write_the_same_file(artifacts, tmp_path, monkeypatch):
    match(artifacts, MatchOptions(rt=0.9, device="cpu"))
    calls = []
    monkeypatch.setattr("disk.matching.matcher.mutual_nearest_pairs", lambda *a: calls.append(a) or as_a_batch(*a))
    real = stage._batches
    monkeypatch.setattr(stage, "_batches", lambda tasks, most, entries: real(tasks, 4, entries))
    other = make_artifacts(tmp_path / "other")
    match(other, MatchOptions(rt=0.9, device="cpu"))
    assert [len(pairs) for pairs, *_ in calls] == [4, 4, 2]
    assert contents(other / "matches.h5") == contents(artifacts / "matches.h5")
