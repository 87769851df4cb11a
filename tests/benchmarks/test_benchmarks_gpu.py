"""The GPU script runs without a GPU, so that its time on one is not wasted on mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from disk.model import kernels
from disk.training import loss
from script import load_script


@pytest.fixture
def script() -> ModuleType:
    return load_script("benchmarks/gpu.py")


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, out: Path, *tables: str) -> int:
    arguments = ["--device", "cpu", "--tiny", "--seconds", "0", "--json", str(out), "--tables", *tables]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    return script.main()


@pytest.mark.slow
def test_every_table_is_printed(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [name for name in script.TABLES if name != "tests"]
    assert run(script, monkeypatch, tmp_path / "gpu.json", *names) == 0
    figures = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert all(row["ms"] > 0 for name in names for row in figures[name])
    printed = capsys.readouterr().out
    assert all(f"\n{name}: " in printed for name in names)
    assert json.loads(printed.splitlines()[-1]) == figures


def test_a_failing_table_does_not_stop_the_others(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(plan: object) -> list[dict[str, float]]:
        raise RuntimeError("out of memory")

    monkeypatch.setitem(script.TABLES, "detect", broken)
    assert run(script, monkeypatch, tmp_path / "gpu.json", "detect", "match") == 1
    figures = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert figures["detect"] == {"error": "out of memory"}
    assert figures["match"]


@pytest.mark.parametrize("names", [("detect", "match", "render"), ("train",), ("dense",)])
def test_every_table_on_a_gpu(
    script: ModuleType,
    names: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    pretend_cuda: object,
    photo: np.ndarray,
) -> None:
    """A pretended one, without kornia and Triton, which are slow here; the processes that render cannot pretend."""
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: None)
    for module in (kernels, loss):
        monkeypatch.setattr(module, "has_kernels", lambda device: False)
    monkeypatch.setattr(script, "fed", lambda plan: 1.0)
    monkeypatch.setattr(sys.modules["gpu_measuring"], "photographs", lambda: [np.tile(photo, (2, 2, 1))])
    tiny = {**script.TINY, "seconds": 0.0, "size": (32, 48), "batches": (2,), "dense_size": (32, 32)}
    plan = replace(script.Plan(torch.device("cuda", 0)), **tiny)
    for name in names:
        assert all(row["ms"] > 0 for row in script.TABLES[name](plan)), name


def test_peak_memory_is_that_of_the_recording_not_of_the_replays(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, peak = [], [0.0]

    def run() -> None:
        calls.append(1)
        peak[0] = max(peak[0], {1: 9e6, 2: 5e6}.get(len(calls), 1e6))

    fakes = {"synchronize": lambda device: None, "memory_allocated": lambda device: 2e6}
    fakes |= {"reset_peak_memory_stats": lambda device: peak.clear() or peak.append(0.0)}
    fakes |= {"max_memory_allocated": lambda device: peak[0]}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    plan = script.Plan(torch.device("cuda", 0), seconds=0.0, rounds=1)
    assert script.measured({"a graph": run}, plan)[0]["peak_mb"] == 3


def test_tests_that_take_too_long_are_reported_as_far_as_they_got(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(command: list[str], **options: Any) -> None:
        output = b"test_a.py::test_one FAILED [ 1%]\ntest_a.py::test_two PASSED [ 2%]\ntest_a.py::test_three"
        raise subprocess.TimeoutExpired(command, options["timeout"], output)

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.raises(RuntimeError, match=r"not done after 300 s\n.*one FAILED.*\n.*three"):
        script.tests(script.Plan(torch.device("cuda", 0)))


def test_the_tests_of_the_gpu_find_the_package_where_it_is_not_installed(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(command: list[str], env: dict[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert Path(env["PYTHONPATH"].split(os.pathsep)[0], "disk", "__init__.py").exists()
        return subprocess.CompletedProcess(command, 0, "1 passed", "")

    monkeypatch.setattr(subprocess, "run", seen)
    assert script.tests(script.Plan(torch.device("cuda", 0))) == [{"result": "1 passed"}]
