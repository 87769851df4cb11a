"""Features are read once, as far as memory allows."""

from __future__ import annotations

import itertools

import h5py
import pytest
import torch
from made_features import COUNTS, make_artifacts

from disk.errors import ArtifactError
from disk.features import Features
from disk.pipeline.feature_cache import FeatureCache, order_for_cache
from disk.pipeline.match import match
from disk.pipeline.match_options import MatchOptions
from disk.storage.artifacts import DESCRIPTORS, read_features


def as_they_are(features: Features) -> Features:
    return features


def test_descriptors_are_read_once(artifacts):
    assert match(artifacts, MatchOptions(device="cpu")).images_read == len(COUNTS)


def test_a_small_cache_reads_little_and_stays_small(tmp_path):
    counts = {f"{i:02}": 20 for i in range(12)}
    artifacts = make_artifacts(tmp_path / "artifacts", counts)
    pairs = list(itertools.combinations(sorted(counts), 2))
    with read_features(artifacts) as store:
        size = FeatureCache(store, 0, False, as_they_are).size_in_bytes("00")
        assert size == 20 * 4 * (2 + 128 + 1)
        for fits in (2, 6, 12):
            cache = FeatureCache(store, fits * size, False, as_they_are)
            order = order_for_cache(pairs, counts, fits * 20)
            assert sorted(order) == pairs
            for name0, name1 in order:
                assert len(cache[name0]) == len(cache[name1]) == 20
                assert sum(held for _, held in cache._kept.values()) <= fits * size
            # blocks of half the cache; for each, the other images are read one by one
            blocks = 1 if fits == 12 else -(-11 // (fits // 2))
            assert cache.reads <= sum(12 - block * (fits // 2) for block in range(blocks))


def test_features_are_kept_as_stored_except_half_precision(artifacts):
    with read_features(artifacts) as store:
        cache = FeatureCache(store, 1 << 20, True, as_they_are)
        assert cache.names == sorted(COUNTS)
        assert torch.equal(cache["a"].keypoints, store["a"].keypoints)
        assert cache["a"].descriptors.dtype == torch.float16


@pytest.mark.parametrize("factor", [0.5, 0.98, 1.02, 512])
def test_descriptors_of_another_length_are_refused(artifacts, factor):
    with h5py.File(artifacts / DESCRIPTORS, "a") as file:
        file["b"][0] *= factor
    with read_features(artifacts) as store:
        cache = FeatureCache(store, 1 << 20, False, as_they_are)
        assert len(cache["a"]) == COUNTS["a"]
        with pytest.raises(ArtifactError, match="'b' do not have unit length"):
            cache["b"]
