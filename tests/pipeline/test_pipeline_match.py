"""The match stage: what it writes, resumes and refuses, and that it reads features once."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from made_features import COUNTS, contents, expected, make_artifacts

from disk.cli.main import main
from disk.errors import ArtifactError
from disk.matching.nearest import mutual_nearest, mutual_nearest_pairs
from disk.pipeline.match import match
from disk.pipeline.match_options import MatchOptions
from disk.storage.artifacts import DESCRIPTORS, KEYPOINTS, SCORES, read_features, read_matches


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
    match(other, MatchOptions(rt=None, f16=True, device="cpu", overwrite=True))
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
import disk.matching.matcher as matcher
import disk.pipeline.match as stage
import disk.pipeline.match_writers as writers
count, real = 0, matcher.mutual_nearest_pairs


def deadly(*args):
    global count
    count += 1
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)
matcher.mutual_nearest_pairs = deadly
writers.SHARD_BYTES = 1000
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
        return mutual_nearest_pairs(*args)

    monkeypatch.setattr("disk.matching.matcher.mutual_nearest_pairs", interrupted)
    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        match(artifacts, MatchOptions(device="cpu"))
    assert torch.get_num_threads() == threads
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


def test_lists_and_retrieval_choose_pairs(artifacts, tmp_path):
    (tmp_path / "pairs.txt").write_text("b.jpg a.jpg\nsub/c a\n")
    match(artifacts, MatchOptions(device="cpu", pairs="list", pairs_file=tmp_path / "pairs.txt"))
    assert list(contents(artifacts / "matches.h5")) == ["a b", "a sub|c"]
    match(artifacts, MatchOptions(device="cpu", pairs="retrieval", top_k=1))
    with read_matches(artifacts) as store:
        assert "blank" not in set(itertools.chain(*store.pairs()))


def test_a_fractional_threshold_counts_as_the_next_whole_one(artifacts, tmp_path):
    match(artifacts, MatchOptions(save_threshold=4.5, device="cpu"))
    other = make_artifacts(tmp_path / "other")
    match(other, MatchOptions(save_threshold=5, device="cpu"))
    assert contents(artifacts / "matches.h5") == contents(other / "matches.h5")
    assert match(artifacts, MatchOptions(save_threshold=5, device="cpu")).matched == 0


def test_disconnected_lists_and_unused_options_are_reported(artifacts, tmp_path, caplog):
    (tmp_path / "pairs.txt").write_text("a b\nsub/c sub/one\n")
    options = MatchOptions(pairs="list", pairs_file=tmp_path / "pairs.txt", overlap=3, device="cpu")
    assert match(artifacts, options).pairs == 2
    assert "2 unconnected groups, such as those of a and of sub/c" in caplog.text
    assert "not used: overlap is for pairs='sequential' or rig" in caplog.text
    caplog.clear()
    match(artifacts, MatchOptions(pairs="sequential", overlap=3, device="cpu"))
    assert not caplog.text


def test_a_folder_of_reconstruct_stands_for_its_artifacts(tmp_path):
    (tmp_path / "model").mkdir()
    make_artifacts(tmp_path / "model" / "artifacts")
    assert main(["match", str(tmp_path / "model"), "--device", "cpu"]) == 0
    assert (tmp_path / "model" / "artifacts" / "matches.h5").is_file()


def test_the_command(artifacts, tmp_path, capsys):
    arguments = ["match", str(artifacts), "--rt", "0.9", "--u16", "--save-threshold", "3", "--device", "cpu"]
    assert main(arguments) == 0
    error = capsys.readouterr().err
    assert "10 pairs: 10 matched in this run" in error
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


def test_overwriting_deletes_inliers_of_the_old_matches(artifacts):
    match(artifacts, MatchOptions(device="cpu"))
    (artifacts / "inliers.h5").write_bytes((artifacts / "matches.h5").read_bytes())
    match(artifacts, MatchOptions(device="cpu"))
    assert (artifacts / "inliers.h5").exists()
    match(artifacts, MatchOptions(device="cpu", rt=0.8, overwrite=True))
    assert not (artifacts / "inliers.h5").exists()
