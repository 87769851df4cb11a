"""Detected features are cached, and detected again when anything they depend on changes."""

import os
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluation_world import write_photo

from disk.errors import EvaluationError
from disk.evaluation import detected, sources
from disk.evaluation.baselines import detect_baseline
from disk.evaluation.ground_truth import View
from disk.evaluation.options import FeatureOptions
from disk.evaluation.sources import open_sources
from disk.features import Features


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The baselines that ran, in order; OpenCV still runs the detection."""
    calls: list[str] = []

    def count(method: str, image: np.ndarray, n: int) -> Features:
        calls.append(method)
        return detect_baseline(method, image, n)

    monkeypatch.setattr(sources, "detect_baseline", count)
    return calls


def test_features_are_detected_once_and_kept(tmp_path, counted):
    view = write_photo(tmp_path / "a.png")
    options = FeatureOptions(method=("sift",), n=50, cache=tmp_path / "kept")
    (first,) = open_sources(options)
    start = perf_counter()
    seconds = first.prepare([view, view])
    assert 0 < seconds < perf_counter() - start
    found = first.features(view)
    assert counted == ["sift"]
    (second,) = open_sources(options)
    assert second.prepare([view]) == seconds
    torch.testing.assert_close(second.features(view).keypoints, found.keypoints, atol=0, rtol=0)
    assert counted == ["sift"]


def test_any_change_that_affects_features_detects_them_again(tmp_path, counted):
    view = write_photo(tmp_path / "a.png")

    def runs(view: View, **options: object) -> int:
        before = len(counted)
        (source,) = open_sources(FeatureOptions(**{"method": ("sift",), "n": 50, **options}))
        source.prepare([view])
        return len(counted) - before

    assert runs(view) == 1
    assert runs(view) == 0
    assert runs(view, n=51) == 1
    assert runs(view, max_size=64) == 1
    assert runs(view, method=("rootsift",)) == 1
    assert runs(view, degrade=True) == 0  # only the second image of a pair is degraded
    second = View(view.path, view.name, second=True)
    assert runs(second) == 0
    assert runs(second, degrade=True) == 1
    assert runs(second, degrade=True, seed=1) == 1
    assert runs(View(view.path, view.name, turns=1)) == 1
    write_photo(view.path, seed=5)  # the same name, another image
    assert runs(view) == 1


def test_a_damaged_file_of_the_cache_is_replaced(tmp_path, counted):
    view = write_photo(tmp_path / "a.png")
    options = FeatureOptions(method=("sift",), n=50, cache=tmp_path / "kept")
    open_sources(options)[0].prepare([view])
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    (source,) = open_sources(options)
    source.prepare([view])
    assert len(counted) == 2
    assert len(source.features(view)) > 0


@pytest.mark.parametrize(
    ("limit", "left"),
    [(199, ["needed", "new"]), (200, ["mid", "needed", "new"]), (299, ["mid", "needed", "new"]),
     (300, ["mid", "needed", "new", "old"])],
)  # fmt: skip
def test_the_cache_evicts_the_least_recently_used(limit, left, tmp_path):
    for age, name in enumerate(["new", "mid", "old", "needed"]):
        file = tmp_path / f"{name}.npz"
        file.write_bytes(bytes(100))
        os.utime(file, (1000 - age, 1000 - age))
    detected._prune(tmp_path, keep={tmp_path / "needed.npz"}, limit=limit)
    assert sorted(path.stem for path in tmp_path.iterdir()) == left


def test_the_cache_keeps_eight_gigabytes(tmp_path, monkeypatch):
    names = ["a", "b", "c"]
    for name in names:
        (tmp_path / name).touch()
    sizes = [SimpleNamespace(st_mtime=10 - k, st_size=4 << 30) for k in range(3)]
    monkeypatch.setattr(detected, "_files", lambda folder: zip([folder / n for n in names], sizes, strict=True))
    detected._prune(tmp_path, keep=())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    sizes[1].st_size += 1
    detected._prune(tmp_path, keep=())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_a_cache_that_cannot_be_a_folder_is_refused(tmp_path):
    def open_with(cache: Path) -> None:
        open_sources(FeatureOptions(method=("sift",), cache=cache))

    (tmp_path / "file").touch()
    with pytest.raises(EvaluationError, match="it is a file; choose another cache"):
        open_with(tmp_path / "file")
    with pytest.raises(EvaluationError, match="Not a directory; choose another cache"):
        open_with(tmp_path / "file" / "below")
    open_with(tmp_path / "deep" / "down")
    assert (tmp_path / "deep" / "down").is_dir()


def test_simultaneous_runs_write_to_distinct_temporary_names(tmp_path, monkeypatch):
    written = []
    save = np.savez

    def spy(content, **arrays):
        written.append(Path(content.name).name)
        save(content, **arrays)

    monkeypatch.setattr(np, "savez", spy)
    options = FeatureOptions(method=("sift",), n=50, cache=tmp_path / "kept")
    open_sources(options)[0].prepare([write_photo(tmp_path / "a.png")])
    assert [str(os.getpid()) in name for name in written] == [True]
