"""Bad input of the match stage is reported in one line, and nothing is lost."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from made_features import make_artifacts

import disk.pipeline.match as stage
from disk.cli.main import main
from disk.errors import ArtifactError, DiskError, PairsError
from disk.matching.nearest import mutual_nearest_pairs
from disk.options import spelt_as_flags
from disk.pipeline.match import match
from disk.pipeline.match_options import MatchOptions
from disk.storage.artifacts import DESCRIPTORS, KEYPOINTS, SCORES, feature_writer, read_matches
from disk.storage.shards import SHARD_BYTES


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


def test_a_gpu_without_memory_is_one_line_and_keeps_finished_pairs(artifacts, monkeypatch):
    calls = itertools.count()

    def out_of_memory(*args):
        if next(calls) == 8:
            raise torch.OutOfMemoryError
        return mutual_nearest_pairs(*args)

    monkeypatch.setattr("disk.matching.matcher.mutual_nearest_pairs", out_of_memory)
    with spelt_as_flags(), pytest.raises(DiskError, match="--max-full-matrix"):
        match(artifacts, MatchOptions(device="cpu"))
    monkeypatch.undo()
    assert 0 < match(artifacts, MatchOptions(device="cpu")).matched < 10


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
def test_invalid_options_are_refused(artifacts, options):
    with spelt_as_flags(), pytest.raises(DiskError, match="--"):
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
    with pytest.raises(ArtifactError, match="descriptors of 'b' do not have unit length"):
        match(artifacts, MatchOptions(device="cpu"))
    (artifacts / DESCRIPTORS).unlink()
    with pytest.raises(ArtifactError, match=r"no descriptors\.h5"):
        match(artifacts, MatchOptions(device="cpu"))
    (artifacts / KEYPOINTS).write_text("no HDF5 at all")
    with pytest.raises(ArtifactError, match=r"keypoints\.h5 cannot be read as HDF5"):
        match(artifacts, MatchOptions(device="cpu"))


def test_a_failure_overwrites_nothing(artifacts, tmp_path):
    match(artifacts, MatchOptions(device="cpu"))
    before = (artifacts / "matches.h5").read_bytes()
    listed = tmp_path / "pairs.txt"
    listed.write_text("a nothing")
    for file in (listed, tmp_path / "nowhere.txt"):
        with pytest.raises(PairsError):
            match(artifacts, MatchOptions(pairs="list", pairs_file=file, overwrite=True, device="cpu"))
        assert (artifacts / "matches.h5").read_bytes() == before


def test_overwriting_is_resumed(artifacts, monkeypatch):
    match(artifacts, MatchOptions(save_threshold=1000, device="cpu"))
    assert (artifacts / "unmatched.h5").exists()
    add, added = stage.MatchWriters.add, []

    def add_and_stop(self, *arguments):
        if len(added) == 3:
            raise KeyboardInterrupt
        added.append(arguments)
        add(self, *arguments)

    monkeypatch.setattr(stage.MatchWriters, "add", add_and_stop)
    with pytest.raises(KeyboardInterrupt):
        match(artifacts, MatchOptions(overwrite=True, device="cpu"))
    monkeypatch.undo()
    summary = match(artifacts, MatchOptions(device="cpu"))
    assert (summary.pairs, summary.matched) == (10, 7)


def test_one_image_is_matched_with_nothing(tmp_path):
    artifacts = make_artifacts(tmp_path / "artifacts", {"alone": 5})
    assert match(artifacts, MatchOptions(device="cpu")).pairs == 0
    with read_matches(artifacts) as store:
        assert store.pairs() == []


def test_a_second_run_at_the_same_time_is_refused(artifacts):
    from disk.storage.locks import folder_lock

    with folder_lock(artifacts), pytest.raises(ArtifactError, match="in use"):
        match(artifacts, MatchOptions(device="cpu"))
