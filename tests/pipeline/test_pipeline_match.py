"""The match stage: what it writes, resumes, refuses, reads once."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from disk.cli.main import main
from disk.errors import ArtifactError, CheckpointError, DiskError
from disk.matching.nearest import mutual_nearest
from disk.pipeline.feature_cache import FeatureCache, order_for_cache, size_in_bytes
from disk.pipeline.match import MatchOptions, match
from disk.storage.artifacts import DESCRIPTORS, KEYPOINTS, SCORES, feature_writer, read_features, read_matches
from disk.storage.shards import SHARD_BYTES

COUNTS = {"a": 40, "b": 30, "blank": 0, "sub/c": 25, "sub/one": 1}
CPU = torch.device("cpu")


def make_artifacts(folder: Path, counts: dict[str, int] = COUNTS, **options: object) -> Path:
    """Features that all see the same 60 points, with noise."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(60, 128, generator=generator)
    folder.mkdir(exist_ok=True)
    writer = feature_writer(folder, {"n": 40, **options}, "weights", False, SHARD_BYTES)
    for name, count in counts.items():
        seen = torch.randint(60, (count,), generator=generator)
        noise = 0.5 * torch.randn(count, 128, generator=generator)
        descriptors = torch.nn.functional.normalize(points[seen] + noise, dim=1)
        arrays = {
            KEYPOINTS: 10 + 40 * torch.rand(count, 2, generator=generator).numpy(),
            DESCRIPTORS: descriptors.numpy(),
            SCORES: np.zeros(count, np.float32),
        }
        writer.add(name, arrays, {"image_size": (60, 60), "image_path": f"{name}.jpg"})
    writer.finish()
    return folder


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    return make_artifacts(tmp_path / "artifacts")


def contents(path: Path) -> dict[str, list]:
    """As the original's tools walk the file: one group per first image, one dataset per second."""
    with h5py.File(path) as file:
        return {
            f"{key0} {key1}": [str(group[key1].dtype), group[key1][()].tolist()]
            for key0, group in file.items()
            for key1 in group
        }


def expected(artifacts: Path, pair: tuple[str, str], ratio: float | None) -> np.ndarray:
    with read_features(artifacts) as store:
        d0, d1 = (store[name].descriptors for name in pair)
    return mutual_nearest(d0, d1, ratio).indices.T.numpy()


@pytest.mark.parametrize("ratio", [None, 0.9])
def test_every_pair_is_stored_as_in_the_original(artifacts, ratio):
    summary = match(artifacts, MatchOptions(rt=ratio, device="cpu"))
    pairs = list(itertools.combinations(sorted(COUNTS), 2))
    with h5py.File(artifacts / "matches.h5") as file:
        for name0, name1 in pairs:
            stored = file[name0.replace("/", "|")][name1.replace("/", "|")]
            assert stored.dtype == np.int64
            assert stored.shape[0] == 2
            np.testing.assert_array_equal(stored[()], expected(artifacts, (name0, name1), ratio))
        assert file["a"]["blank"].shape == (2, 0)
        assert file["a"]["b"].shape[1] > 5
    assert (summary.pairs, summary.matched, summary.stored) == (10, 10, 10)
    assert not (artifacts / "unmatched.h5").exists()
    with read_matches(artifacts) as store:
        assert store.pairs() == pairs


def test_u16_f16_and_device_memory_change_nothing_but_the_type(artifacts, tmp_path):
    match(artifacts, MatchOptions(rt=0.9, device="cpu"))
    other = make_artifacts(tmp_path / "other")
    match(other, MatchOptions(rt=0.9, device="cpu", u16=True, max_full_matrix=1))
    for pair, (kind, values) in contents(other / "matches.h5").items():
        assert kind == "uint16"
        assert values == contents(artifacts / "matches.h5")[pair][1]
    match(other, MatchOptions(f16=True, device="cpu", overwrite=True))
    with read_features(other) as store:
        d0, d1 = store["a"].descriptors.half(), store["b"].descriptors.half()
    assert contents(other / "matches.h5")["a b"][1] == mutual_nearest(d0, d1).indices.T.tolist()


def test_pairs_below_the_threshold_are_not_stored_but_remembered(artifacts):
    options = MatchOptions(save_threshold=5, device="cpu")
    first = match(artifacts, options)
    stored, unmatched = contents(artifacts / "matches.h5"), contents(artifacts / "unmatched.h5")
    assert len(stored) == first.stored == 3
    assert all(len(values[0]) >= 5 for _, values in stored.values())
    assert unmatched["a sub|one"][1] == 1
    assert unmatched["a blank"][1] == 0
    assert len(stored) + len(unmatched) == 10
    again = match(artifacts, options)
    assert (again.pairs, again.matched, again.images_read) == (10, 0, 0)
    assert contents(artifacts / "matches.h5") == stored


def test_without_one_stored_pair_there_is_still_a_file_and_it_resumes(artifacts):
    options = MatchOptions(save_threshold=1000, device="cpu")
    assert match(artifacts, options).stored == 0
    with read_matches(artifacts) as store:
        assert store.pairs() == []
    assert match(artifacts, options).matched == 0


def test_more_images_and_other_pairs_are_added(artifacts):
    match(artifacts, MatchOptions(device="cpu", pairs="sequential", overlap=1))
    before = contents(artifacts / "matches.h5")
    assert len(before) == 4
    make_artifacts(artifacts, {"z": 20})
    summary = match(artifacts, MatchOptions(device="cpu"))
    after = contents(artifacts / "matches.h5")
    assert (summary.matched, len(after)) == (11, 15)
    assert all(after[pair] == values for pair, values in before.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"rt": 0.8}, "rt 0.9 there, 0.8 now"), ({"u16": True}, "u16 False there, True now")],
)
def test_other_options_do_not_continue(artifacts, change, message):
    match(artifacts, MatchOptions(rt=0.9, device="cpu"))
    before = contents(artifacts / "matches.h5")
    with pytest.raises(ArtifactError, match=message):
        match(artifacts, MatchOptions(**{"rt": 0.9, "device": "cpu"} | change))
    assert contents(artifacts / "matches.h5") == before
    match(artifacts, MatchOptions(**{"rt": 0.9, "device": "cpu", "overwrite": True} | change))


def test_other_features_do_not_continue(artifacts, tmp_path):
    match(artifacts, MatchOptions(device="cpu"))
    other = make_artifacts(tmp_path / "other", n=99)
    for file in (KEYPOINTS, DESCRIPTORS, SCORES):
        (other / file).replace(artifacts / file)
    with pytest.raises(ArtifactError, match="features' n 40 there, 99 now"):
        match(artifacts, MatchOptions(device="cpu"))


def test_the_originals_features_are_matched(artifacts):
    for file in (KEYPOINTS, DESCRIPTORS):
        with h5py.File(artifacts / file, "a") as h5:
            for key in list(h5.attrs):
                del h5.attrs[key]
    (artifacts / SCORES).unlink()
    assert match(artifacts, MatchOptions(device="cpu")).stored == 10


_KILLED = """
import os, signal, sys
from pathlib import Path
import disk.pipeline.match as stage
count, real = 0, stage.mutual_nearest
def deadly(*args):
    global count
    count += 1
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)
stage.mutual_nearest = deadly
stage.SHARD_BYTES = 1000
stage.match(Path(sys.argv[1]), stage.MatchOptions(save_threshold=5, device="cpu"))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_runs_end_with_the_contents_of_an_undisturbed_one(artifacts, tmp_path):
    command = [sys.executable, "-c", _KILLED, str(artifacts), "8"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (artifacts / "matches.h5").exists()
    resumed = match(artifacts, MatchOptions(save_threshold=5, device="cpu"))
    assert 0 < resumed.matched < 10
    undisturbed = make_artifacts(tmp_path / "undisturbed")
    match(undisturbed, MatchOptions(save_threshold=5, device="cpu"))
    for file in ("matches.h5", "unmatched.h5"):
        assert contents(artifacts / file) == contents(undisturbed / file)
    leftovers = {path.name for path in artifacts.iterdir()} - {path.name for path in undisturbed.iterdir()}
    assert not leftovers


def test_an_interruption_keeps_what_is_done(artifacts, monkeypatch):
    calls = itertools.count()

    def interrupted(*args):
        if next(calls) == 8:
            raise KeyboardInterrupt
        return mutual_nearest(*args)

    monkeypatch.setattr("disk.pipeline.match.mutual_nearest", interrupted)
    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        match(artifacts, MatchOptions(device="cpu"))
    assert torch.get_num_threads() == threads
    monkeypatch.undo()
    assert 0 < match(artifacts, MatchOptions(device="cpu")).matched < 10


def test_a_full_disk_is_one_line_and_nothing_is_lost(artifacts, monkeypatch, capsys):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("disk.storage.shards.os.fsync", full)
    assert main(["match", str(artifacts), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "No space left on device" in error
    monkeypatch.undo()
    assert match(artifacts, MatchOptions(device="cpu")).stored == 10


def test_a_gpu_without_memory_is_one_line_and_keeps_what_is_done(artifacts, monkeypatch):
    calls = itertools.count()

    def out_of_memory(*args):
        if next(calls) == 8:
            raise torch.OutOfMemoryError
        return mutual_nearest(*args)

    monkeypatch.setattr("disk.pipeline.match.mutual_nearest", out_of_memory)
    with pytest.raises(DiskError, match="--max-full-matrix"):
        match(artifacts, MatchOptions(device="cpu"))
    monkeypatch.undo()
    assert 0 < match(artifacts, MatchOptions(device="cpu")).matched < 10


def test_several_workers_give_the_same_file(artifacts, tmp_path):
    match(artifacts, MatchOptions(rt=0.9, device="cpu"))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        other = make_artifacts(tmp_path / "other")
        match(other, MatchOptions(rt=0.9, device="cpu"))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert contents(other / "matches.h5") == contents(artifacts / "matches.h5")


def test_descriptors_are_read_once(artifacts):
    assert match(artifacts, MatchOptions(device="cpu")).images_read == len(COUNTS)


def test_a_small_cache_reads_little_and_stays_small(tmp_path):
    counts = {f"{i:02}": 20 for i in range(12)}
    artifacts = make_artifacts(tmp_path / "artifacts", counts)
    pairs = list(itertools.combinations(sorted(counts), 2))
    with read_features(artifacts) as store:
        size = size_in_bytes(store["00"])
        for fits in (2, 6, 12):
            cache = FeatureCache(store, fits * size, CPU, half=False)
            order = order_for_cache(pairs, counts, fits * 20)
            assert sorted(order) == pairs
            for name0, name1 in order:
                assert len(cache[name0]) == len(cache[name1]) == 20
                assert sum(size_in_bytes(features) for features in cache._kept.values()) <= fits * size
            # blocks of half the cache, and the rest streams past each
            blocks = 1 if fits == 12 else -(-11 // (fits // 2))
            assert cache.reads <= sum(12 - block * (fits // 2) for block in range(blocks))


def test_lists_and_retrieval_choose_pairs(artifacts, tmp_path):
    (tmp_path / "pairs.txt").write_text("b.jpg a.jpg\nsub/c a\n")
    match(artifacts, MatchOptions(device="cpu", pairs="list", pairs_file=tmp_path / "pairs.txt"))
    assert list(contents(artifacts / "matches.h5")) == ["a b", "a sub|c"]
    match(artifacts, MatchOptions(device="cpu", pairs="retrieval", top_k=1))
    with read_matches(artifacts) as store:
        assert "blank" not in set(itertools.chain(*store.pairs()))


def test_lightglue_matches_and_remembers_its_weights(artifacts, tmp_path):
    kornia = pytest.importorskip("kornia.feature")
    torch.manual_seed(0)
    network = kornia.LightGlue(None, input_dim=128)
    for seed, name in enumerate(("one.pth", "two.pth")):
        torch.nn.init.constant_(network.log_assignment[-1].matchability.bias, 5.0 + seed)
        torch.save(network.state_dict(), tmp_path / name)
    options = {"matcher": "lightglue", "device": "cpu"}
    assert match(artifacts, MatchOptions(**options, matcher_weights=tmp_path / "one.pth")).pairs == 10
    with h5py.File(artifacts / "matches.h5") as file:
        assert json.loads(file.attrs["options"])["matcher"] == "lightglue"
        assert file["a"]["blank"].shape == (2, 0)
    with pytest.raises(ArtifactError, match="matcher_weights"):
        match(artifacts, MatchOptions(**options, matcher_weights=tmp_path / "two.pth"))
    with pytest.raises(CheckpointError, match=r"none\.pth"):
        match(artifacts, MatchOptions(**options, matcher_weights=tmp_path / "none.pth"))
    with pytest.raises(DiskError, match="--rt"):
        match(artifacts, MatchOptions(**options, rt=0.9))


@pytest.mark.parametrize(
    "options",
    [
        {"rt": 0.0},
        {"rt": 1.01},
        {"save_threshold": -1},
        {"max_full_matrix": 0},
        {"cache_mb": 0},
        {"pairs": "sequential", "overlap": 0},
        {"pairs": "retrieval", "top_k": 0},
        {"pairs": "list"},
        {"pairs_file": Path("pairs.txt")},
        {"matcher_weights": Path("w.pth")},
    ],
)
def test_options_without_sense_are_refused(artifacts, options):
    with pytest.raises(DiskError, match="--"):
        match(artifacts, MatchOptions(device="cpu", **options))
    assert not (artifacts / "matches.h5").exists()


def test_u16_cannot_number_too_many_features(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    writer = feature_writer(folder, {}, "weights", False, SHARD_BYTES)
    for name, count in (("a", 65536), ("b", 2)):
        ones = np.ones((count, 1), np.float32)
        arrays = {KEYPOINTS: np.zeros((count, 2), np.float32), DESCRIPTORS: ones, SCORES: ones[:, 0]}
        writer.add(name, arrays)
    writer.finish()
    with pytest.raises(ArtifactError, match="'a' has 65536 features"):
        match(folder, MatchOptions(u16=True, device="cpu"))


def test_artifacts_of_another_program_are_refused(artifacts, tmp_path):
    with pytest.raises(ArtifactError, match="disk detect"):
        match(tmp_path / "nowhere", MatchOptions())
    assert not (tmp_path / "nowhere").exists()
    with h5py.File(artifacts / "matches.h5", "w") as file:
        file["their data"] = np.zeros(3)
    with pytest.raises(ArtifactError, match="not written by this command"):
        match(artifacts, MatchOptions(device="cpu"))
    (artifacts / "matches.h5").write_text("no HDF5 at all")
    with pytest.raises(ArtifactError, match=r"matches\.h5 cannot be read as HDF5"):
        match(artifacts, MatchOptions(device="cpu"))
    (artifacts / "matches.h5").unlink()
    with h5py.File(artifacts / DESCRIPTORS, "a") as file:
        file["b"][:] *= 512
    with pytest.raises(ArtifactError, match="descriptors of 'b' are not of unit length"):
        match(artifacts, MatchOptions(device="cpu"))
    (artifacts / DESCRIPTORS).unlink()
    with pytest.raises(ArtifactError, match=r"no descriptors\.h5"):
        match(artifacts, MatchOptions(device="cpu"))
    (artifacts / KEYPOINTS).write_text("no HDF5 at all")
    with pytest.raises(ArtifactError, match=r"keypoints\.h5 cannot be read as HDF5"):
        match(artifacts, MatchOptions(device="cpu"))


def test_one_image_is_matched_with_nothing(tmp_path):
    artifacts = make_artifacts(tmp_path / "artifacts", {"alone": 5})
    assert match(artifacts, MatchOptions(device="cpu")).pairs == 0
    with read_matches(artifacts) as store:
        assert store.pairs() == []


def test_a_second_run_at_the_same_time_is_refused(artifacts):
    from disk.storage.shards import folder_lock

    with folder_lock(artifacts), pytest.raises(ArtifactError, match="in use"):
        match(artifacts, MatchOptions(device="cpu"))


def test_the_command(artifacts, tmp_path, capsys):
    arguments = ["match", str(artifacts), "--rt", "0.9", "--u16", "--save-threshold", "3", "--device", "cpu"]
    assert main(arguments) == 0
    error = capsys.readouterr().err
    assert "10 pairs: 10 matched now" in error
    assert "pairs/s" in error
    assert main(["match", str(artifacts), "--rt", "0.8", "--u16", "--save-threshold", "3"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "rt 0.9 there, 0.8 now" in error
    (tmp_path / "pairs.txt").write_text("a b\na nobody\n")
    arguments = [*arguments, "--pairs", "list", "--pairs-file", str(tmp_path / "pairs.txt")]
    assert main(arguments) == 2
    assert "line 2" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["match", "--help"])
    assert caught.value.code == 0
    assert "disk match artifacts/" in capsys.readouterr().out


def test_features_are_kept_as_stored_but_for_half_precision(artifacts):
    with read_features(artifacts) as store:
        cache = FeatureCache(store, 1 << 20, CPU, half=True)
        assert cache.names == sorted(COUNTS)
        assert torch.equal(cache["a"].keypoints, store["a"].keypoints)
        assert cache["a"].descriptors.dtype == torch.float16
