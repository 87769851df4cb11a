"""Batches: mixed evenly, the same for any number of processes, readers and renderers."""

from __future__ import annotations

import os
import queue
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from disk.errors import DiskError, TrainingError
from disk.training import rendering
from disk.training.data import Mix, TrainingData
from disk.training.distributed import Group
from disk.training.options import TrainOptions
from disk.training.rendering import RenderJob, fitting_processes

CPU = torch.device("cpu")
OPTIONS = TrainOptions(
    height=48, width=48, batch_size=4, chunk_size=2, warmup=2, test_scene_limit=0, views=3, workers=0, augment=True,
    synthetic_share=0.75,
)  # fmt: skip


def batches(data: Path, options: TrainOptions, first: int, count: int) -> list[list[Any]]:
    made = TrainingData(data, options, Group(0, 1, CPU)).batches(first)
    found = list(islice(made, count))
    made.close()
    return found


def same(first: list[list[Any]], second: list[list[Any]]) -> bool:
    pairs = zip(first, second, strict=True)
    views = [(a, b) for x, y in pairs for u, v in zip(x, y, strict=True) for a, b in zip(u, v, strict=True)]
    return all(a.name == b.name and torch.equal(a.image, b.image) for a, b in views)


def test_a_batch_has_its_share_of_rendered_tuples(photos: Path, data: Path) -> None:
    for batch in batches(data, replace(OPTIONS, synthesize=photos), 0, 3):
        assert Counter(views[0].name.startswith("wall/") for views in batch) == {False: 3, True: 1}
        assert all(len(views) == 3 for views in batch)


def test_renderers_and_readers_change_nothing(photos: Path, data: Path) -> None:
    """Bit for bit, resumed or not, from batch 1 on."""
    options = replace(OPTIONS, synthesize=photos)
    alone = batches(data, options, 0, 4)
    helped = replace(options, renderers=2, workers=1)
    assert same(batches(data, helped, 1, 3), alone[1:])


@given(st.floats(0, 1), st.integers(1, 8), st.integers(1, 4), st.integers(0, 50))
def test_processes_share_the_tuples_of_one_process(share: float, batch_size: int, size: int, batch: int) -> None:
    one = Mix(share, batch_size * size, 0, 1).numbers(batch)
    parts = [n for rank in range(size) for n in Mix(share, batch_size, rank, size).numbers(batch)]
    assert parts == list(one)


@given(st.floats(0, 1), st.integers(1, 200))
def test_rendered_and_read_tuples_are_numbered_without_gaps(share: float, count: int) -> None:
    mix = Mix(share, 1, 0, 1)
    rendered = [n for n in range(count) if mix.is_rendered(n)]
    assert [mix.rendered_before(n) for n in rendered] == list(range(len(rendered)))
    assert len(rendered) == pytest.approx(share * count, abs=1)


@given(st.integers(0, 40), st.integers(1, 7))
def test_groups_of_a_resumed_training_are_those_of_an_undisturbed_one(first: int, together: int) -> None:
    mix = Mix(0.6, 2, 1, 2)
    whole = list(islice(mix.groups(0, together), 60))
    resumed = next(mix.groups(first, together))
    assert resumed in whole
    assert resumed.seeds[0] <= next(n for b in range(first, 99) for n in mix.numbers(b) if mix.is_rendered(n))


def test_every_tuple_is_read_once_in_a_pass(data: Path) -> None:
    options = replace(OPTIONS, batch_size=4, chunk_size=None, augment=False)
    names = [tuple(view.name for view in views) for batch in batches(data, options, 0, 6) for views in batch]
    passes = [names[i : i + 6] for i in range(0, 24, 6)]
    assert all(len(set(part)) == 6 for part in passes)
    assert len({tuple(part) for part in passes}) > 1


@pytest.mark.parametrize(("cores", "asked", "expected"), [(1, None, 0), (3, None, 2), (64, None, 4), (1, 3, 3)])
def test_readers_fit_the_cores(
    cores: int, asked: int | None, expected: int, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert TrainingData(data, replace(OPTIONS, workers=asked, chunk_size=1), Group(0, 1, CPU)).workers == expected


def test_as_many_readers_as_shared_memory_holds_the_tuples_of(
    data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    tuple_ = 16 * 48 * 48 * 3
    for free, expected in ((1e12, 4), (6.5 * tuple_, 2), (0, 0)):
        monkeypatch.setattr(rendering, "free_shared_memory", lambda free=free: free)
        options = replace(OPTIONS, workers=None, chunk_size=1)
        assert TrainingData(data, options, Group(0, 1, CPU)).workers == expected
        assert ("--shm-size" in caplog.text) == (expected < 4)


def job(photos: Path, device: str = "cpu") -> RenderJob:
    return RenderJob(photos, 48, 48, 2, 0, torch.device(device), False)


def test_two_processes_render_on_a_gpu_if_memory_lets_them(
    photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rendering.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 40))
    assert [fitting_processes(job(photos, kind), None, 24) for kind in ("cuda:0", "mps", "cpu")] == [2, 0, 0]
    assert fitting_processes(job(photos), 3, 24) == 3
    monkeypatch.setattr(rendering.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    if Path("/dev/shm").is_dir():
        assert fitting_processes(job(photos, "cuda:0"), None, 24) == 0
        assert "--shm-size" in caplog.text


def test_a_dead_renderer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_PATIENCE", 0.01)
    renderer = rendering._Renderer.__new__(rendering._Renderer)
    renderer.queue, renderer.process = queue.Queue(), SimpleNamespace(is_alive=lambda: False, exitcode=-9)
    with pytest.raises(TrainingError, match=r"exit code -9.*renderers=0"):
        renderer.next()


def test_an_error_in_a_renderer_is_raised_where_its_result_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "leave_signals_to_parent", lambda: None)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    renderer = rendering._Renderer.__new__(rendering._Renderer)
    renderer.queue = queue.Queue()
    rendering._work(renderer.queue, job(tmp_path), lambda: iter([]), 0, 1)
    with pytest.raises(DiskError, match=r"broken\.jpg"):
        renderer.next()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_renderers_give_the_same_as_no_renderers(photos: Path, data: Path) -> None:
    options = replace(OPTIONS, synthesize=photos, batch_size=8, chunk_size=1)
    group = Group(0, 1, torch.device("cuda", 0))
    found = []
    for renderers in (0, 2):
        made = TrainingData(data, replace(options, renderers=renderers), group).batches(1)
        found.append(list(islice(made, 3)))
        made.close()
    assert all(view.image.device.type == "cuda" for batch in found[1] for views in batch for view in views)
    for one, other in zip(*found, strict=True):
        for views, same_views in zip(one, other, strict=True):
            for view, there in zip(views, same_views, strict=True):
                assert view.name == there.name
                assert ((view.image - there.image).abs() > 1e-2).float().mean() < 1e-3
