"""The benchmark of scale on a small scale: its data can be matched and verified, and its checks hold."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from disk.matching.nearest import mutual_nearest
from disk.storage.artifacts import read_features

FOLDER = Path(__file__).parents[2] / "benchmarks" / "scale"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == FOLDER:
            del sys.modules[name]  # `pairs` and `images` are names that other modules may have


def test_a_street_through_all_stages(
    load: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images, measure = load("images"), load("measure")
    # in this process, where the libraries are loaded
    monkeypatch.setattr(images, "cost_of", lambda stage: (stage() and None) or measure.Cost(1.0, 2.0, 300.0))
    images.run(tmp_path, argparse.Namespace(counts=[8], features=80, top_k=3))
    printed = capsys.readouterr().out.splitlines()
    stages = [line.split("|")[2].strip() for line in printed if line.startswith("| 8 ")]
    assert stages == [
        "nothing", "retrieval", "match", "export", "verify", "export, nothing new", "verify, nothing new",
    ]  # fmt: skip
    found = next(line for line in printed if "overlap" in line).split()
    assert found[0] == found[2] == found[5] != "0"  # all pairs are near, and verified
    assert not list(tmp_path.iterdir())


def test_a_crowd_has_matches_in_every_pair(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    load("made").crowd(tmp_path / "crowd", 5, 40)
    with read_features(tmp_path / "crowd") as features:
        assert [len(features[name]) for name in features.names] == [40] * 5
        first, *others = (features[name].descriptors for name in features.names)
    assert all(len(mutual_nearest(first, other, 0.95).indices) > 5 for other in others)


def test_bytes_and_memory_are_those_of_the_system(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    measure = load("measure")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(bytes(1000))
    (tmp_path / "b").write_bytes(bytes(24))
    assert measure.disk(tmp_path) == 1024
    assert 10 < measure.resident("VmRSS") <= measure.resident("VmHWM")
