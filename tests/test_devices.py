"""Free memory: the smallest of the limits of the system, the control groups and the shell."""

from pathlib import Path

import pytest
import torch

from disk import devices
from disk.devices import free_memory

CPU = torch.device("cpu")


def test_control_groups_of_both_versions_and_their_parents(tmp_path):
    own, root = tmp_path / "cgroup", tmp_path / "sys"
    own.write_text("4:memory,cpu:/docker/host\n3:pids:/docker\n0::/job/step\n")
    job = root / "job"
    (job / "step").mkdir(parents=True)
    (job / "memory.max").write_text("8000\n")
    (job / "memory.current").write_text("5000\n")
    (job / "memory.stat").write_text("anon 1\ninactive_file 700\nactive_file 9\n")
    (job / "step" / "memory.max").write_text("max\n")
    (job / "step" / "memory.current").write_text("10\n")
    first = root / "memory"  # the path of version 1 does not exist in a container
    first.mkdir()
    (first / "memory.limit_in_bytes").write_text("6000\n")
    (first / "memory.usage_in_bytes").write_text("1000\n")
    assert list(devices._free_in_groups(own, root)) == [5000, 3700]
    assert list(devices._free_in_groups(tmp_path / "none", root)) == []


def test_the_smallest_limit_counts(monkeypatch):
    monkeypatch.setattr(devices, "_free_in_system", lambda: 50.0)
    monkeypatch.setattr(devices, "_free_in_groups", lambda: iter([70.0, 40.0]))
    monkeypatch.setattr(devices, "_free_in_process", lambda: 60.0)
    assert free_memory(CPU) == 40
    monkeypatch.setattr(devices, "_free_in_groups", lambda: iter([-1.0]))
    assert free_memory(CPU) == 0


def test_this_machine_has_memory():
    assert free_memory(CPU) > 1e6


def test_the_limit_of_the_shell(monkeypatch):
    resource = pytest.importorskip("resource")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + (10 << 30)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    assert 9 << 30 < devices._free_in_process() < 11 << 30
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    assert devices._free_in_process() == float("inf")
