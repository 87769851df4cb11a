"""Stages on a Ray cluster: two machines with one core each, from Ray's point of view."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from made_features import COUNTS, contents, make_artifacts

from disk.cli.main import main
from disk.errors import DiskError, ImageError, MissingExtraError
from disk.pipeline.cluster import Cluster, _cores
from disk.pipeline.detect import DetectOptions, detect
from disk.pipeline.match import match
from disk.pipeline.match_options import MatchOptions
from disk.storage.artifacts import read_features

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module", autouse=True)
def machines() -> Iterator[Any]:
    from ray.cluster_utils import Cluster as Machines

    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    machines = Machines(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    machines.add_node(num_cpus=1)
    patch.setenv("RAY_ADDRESS", machines.address)
    yield machines
    machines.shutdown()
    patch.undo()


def on_workers(task: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> dict[int, Any]:
    """The workers' results for the arguments, by position."""
    with Cluster("auto", lambda: task, "cpu", cores=1) as cluster:
        assert not cluster.has_gpus
        found = list(cluster.map(enumerate(arguments)))
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.mark.slow
def test_every_task_is_done_once_on_both_machines() -> None:
    def where(number: int) -> tuple[int, str]:
        import time

        time.sleep(0.2)
        return number**2, ray.get_runtime_context().get_node_id()

    found = on_workers(where, [(number,) for number in range(20)])
    assert [found[i][0] for i in range(20)] == [number**2 for number in range(20)]
    assert len({node for _, node in found.values()}) == 2


def test_tasks_are_taken_as_workers_become_free() -> None:
    taken = []

    def tasks() -> Iterator[tuple[int, tuple[int]]]:
        for number in range(50):
            taken.append(number)
            yield number, (number,)

    with Cluster("auto", lambda: abs, "cpu", cores=1) as cluster:
        for done, _ in enumerate(cluster.map(tasks()), 1):
            assert len(taken) <= done + 6  # three for each of two workers
    assert len(taken) == done == 50


def test_the_tasks_of_a_worker_that_dies_go_to_the_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    died = tmp_path / "died"

    def deadly(number: int) -> int:
        if number == 3 and not died.exists():
            died.touch()
            os._exit(1)
        return number

    assert on_workers(deadly, [(number,) for number in range(10)]) == {number: number for number in range(10)}
    assert died.exists()
    assert "lost a worker of the Ray cluster" in caplog.text


def test_a_machine_that_joins_later_gets_work(
    machines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("disk.pipeline.cluster._LOOK", 0.1)
    there = tmp_path / "there"

    def where(number: int) -> str:
        import time

        time.sleep(0.05)
        node = ray.get_runtime_context().get_node_id()
        if node not in before:
            there.touch()
        return str(node)

    def tasks() -> Iterator[tuple[int, tuple[int]]]:
        for number in range(1000):
            if number == 10:
                joined.append(machines.add_node(num_cpus=1))
            if there.exists():
                return
            yield number, (number,)

    joined: list[Any] = []
    before = {node["NodeID"] for node in _alive()}
    with caplog.at_level("INFO", "disk"), Cluster("auto", lambda: where, "cpu", cores=1) as cluster:
        found = list(cluster.map(tasks()))
    machines.remove_node(*joined)
    assert [number for number, _ in sorted(found)] == list(range(len(found)))
    assert {node for _, node in found} - before
    assert "1 more worker on machines that joined" in caplog.text


def _alive() -> list[dict[str, Any]]:
    ray.init("auto", log_to_driver=False, logging_level="ERROR")
    try:
        return [node for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def test_without_workers_one_line_is_raised() -> None:
    with pytest.raises(DiskError, match="no worker of the Ray cluster is left"):
        on_workers(lambda: os._exit(1), [()])


def test_errors_of_a_task_keep_their_type_and_message() -> None:
    def refuse(name: str) -> None:
        raise ImageError(f"{name} is no image")

    with pytest.raises(ImageError, match=r"^x\.jpg is no image$"):
        on_workers(refuse, [("x.jpg",)])


@pytest.mark.slow
def test_detection_and_matching_are_those_of_one_machine(photo_folder: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    options = {"n": 60, "max_size": 64, "backend": "torch"}
    summary = detect(here, photo_folder, DetectOptions(**options))
    assert detect(there, photo_folder, DetectOptions(ray="auto", **options)) == summary
    with read_features(here) as one, read_features(there) as other:
        assert one.names == other.names
        for name in one:
            torch.testing.assert_close(one[name].keypoints, other[name].keypoints, rtol=0, atol=0)
            torch.testing.assert_close(one[name].descriptors, other[name].descriptors, rtol=0, atol=1e-6)
    match(here, MatchOptions(rt=0.95))
    assert main(["match", str(there), "--rt", "0.95", "--ray", "auto"]) == 0
    assert contents(here / "matches.h5") == contents(there / "matches.h5")
    assert detect(there, photo_folder, DetectOptions(ray="auto", **options)).detected == 0


def test_retrieval_and_a_small_cache(tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"pairs": "retrieval", "top_k": 2, "cache_mb": 1}
    here, there = make_artifacts(tmp_path / "here"), make_artifacts(tmp_path / "there")
    match(here, MatchOptions(**chosen))
    assert match(there, MatchOptions(ray="auto", **chosen)).images_read == len(COUNTS) - 1  # one has no features
    assert contents(here / "matches.h5") == contents(there / "matches.h5")


@pytest.mark.parametrize(("cores", "cpus", "workers"), [(4, 2, [2]), (4, 10, [5, 5]), (1, 3, [1, 1, 1]), (4, 0, [])])
def test_machines_without_gpus_are_divided_by_cores(cores: int, cpus: int, workers: list[int]) -> None:
    node = {"NodeID": "0" * 56, "Resources": {"CPU": float(cpus)}}
    assert [need["num_cpus"] for need in _cores(node, cores)] == workers


def test_without_ray_or_a_cluster_one_line_says_what_to_do(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray, "init", _no_cluster)
    assert main(["match", str(artifacts), "--ray", "auto"]) == 2
    assert "ray start --head" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"disk-features\[ray\]"):
        match(artifacts, MatchOptions(ray="auto"))
    assert not (artifacts / "matches.h5").exists()


def _no_cluster(*_: Any, **__: Any) -> None:
    raise ConnectionError("Could not find any running Ray instance.")


def test_a_cluster_without_a_token_is_pointed_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", "disk"):
        on_workers(lambda number: number, [(1,)])
    assert "requires no token" in caplog.text
