"""The GPU script runs without a GPU, so that its time on one is not wasted on mistakes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
    spec = importlib.util.spec_from_file_location("gpu_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for dataclasses
    spec.loader.exec_module(module)
    return module


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
