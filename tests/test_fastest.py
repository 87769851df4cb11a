"""The fastest way is measured once per CPU, and a bad file of timings does no harm."""

import json
import os
import subprocess
import sys

import pytest
import torch

from disk import devices, fastest


class Clock:
    """A clock that advances only when a way runs."""

    now = 0.0

    def __call__(self):
        return self.now

    def way(self, seconds, runs):
        def prepare():
            def run():
                self.now += seconds
                runs.append(seconds)

            return run

        return prepare


@pytest.fixture
def clock(monkeypatch, tmp_path):
    clock = Clock()
    monkeypatch.setattr(fastest, "perf_counter", clock)
    monkeypatch.setattr(fastest, "crowded", lambda: False)
    monkeypatch.setenv("DISK_HOME", str(tmp_path / "home"))
    another_process(monkeypatch)
    return clock


def another_process(monkeypatch):
    monkeypatch.setattr(fastest, "_measured_here", {})


def test_the_fastest_is_measured_once_and_kept_for_other_processes(clock, monkeypatch, tmp_path):
    runs = []
    ways = {"slow": clock.way(0.002, runs), "fast": clock.way(0.001, runs)}
    assert fastest.fastest("products", ways) == "fast"
    first = len(runs)
    assert fastest.fastest("products", ways) == "fast"
    another_process(monkeypatch)
    assert fastest.fastest("products", ways) == "fast"
    assert len(runs) == first
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["speed.json"]
    [figures] = fastest.measured().values()
    assert figures == pytest.approx({"slow": 0.002, "fast": 0.001})
    assert fastest.fastest("other", {"slow": ways["slow"]}) == "slow"
    assert len(fastest.measured()) == 2
    fastest.fastest("products", {**ways, "new": clock.way(0.0005, runs)})  # a way without timings
    assert min(runs) == 0.0005


def test_another_cpu_version_or_number_of_threads_is_measured_again(clock, monkeypatch):
    runs = []
    ways = {"a": clock.way(0.001, runs), "b": clock.way(0.002, runs)}
    fastest.fastest("products", ways)
    for module, name, value in [
        (fastest, "cpu_name", "another"), (torch, "__version__", "9.9"), (torch, "get_num_threads", 77),
    ]:  # fmt: skip
        another_process(monkeypatch)
        runs.clear()
        fastest._machine.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value if isinstance(getattr(module, name), str) else lambda value=value: value)
            fastest.fastest("products", ways)
        assert runs
    fastest._machine.cache_clear()


def test_a_tenth_of_a_second_is_the_limit(clock):
    runs = []
    fastest.fastest("long", {"a": clock.way(0.06, runs), "b": clock.way(0.05, runs)})
    assert len(runs) == 2 * 3  # warm-up and two rounds
    runs.clear()
    fastest.fastest("short", {"a": clock.way(0.001, runs), "b": clock.way(0.002, runs)})
    assert len(runs) == 2 * 6


def test_under_load_nothing_is_kept(clock, monkeypatch, tmp_path):
    monkeypatch.setattr(fastest, "crowded", lambda: True)
    assert fastest.fastest("products", {"a": clock.way(0.1, []), "b": clock.way(0.05, [])}) == "b"
    assert not (tmp_path / "home").exists()
    assert len(fastest.measured()) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"[" * 100_000, b'{"%s": 5}', b'{"%s": {"%s": 5}}', b'{"%s": {"%s": {"a": "x"}}}',
     b'{"%s": {"%s": {"a": NaN, "b": 1.0}}}', b'{"%s": {"%s": {"a": -1.0, "b": 1.0}}}', b'{"%s": {"%s": {"a": 1.0}}}'],
    ids=range(11),
)  # fmt: skip
def test_a_damaged_file_is_measured_again_and_replaced(clock, tmp_path, content):
    path = tmp_path / "home" / "speed.json"
    path.parent.mkdir()
    task = f"products, {torch.get_num_threads()} threads"
    for key in (fastest._machine(), task):
        content = content.replace(b"%s", key.encode(), 1)
    path.write_bytes(content)
    assert fastest.fastest("products", {"a": clock.way(0.002, []), "b": clock.way(0.001, [])}) == "b"
    kept = json.loads(path.read_text())[fastest._machine()][task]
    assert kept == pytest.approx({"a": 0.002, "b": 0.001})


@pytest.mark.parametrize("trouble", ["file in the way", "read only", "no home"])
def test_without_a_writable_file_each_process_measures(clock, monkeypatch, tmp_path, trouble):
    if trouble == "file in the way":
        (tmp_path / "home").write_text("")
    elif trouble == "read only":
        monkeypatch.setattr(fastest.Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError("read only")))
    else:
        monkeypatch.setattr(fastest, "cache_folder", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert fastest.fastest("products", {"a": clock.way(0.002, []), "b": clock.way(0.001, [])}) == "b"


def test_a_way_that_cannot_be_prepared_is_skipped(clock, caplog):
    def broken():
        raise OSError("no library")

    assert fastest.fastest("layers", {"torch": clock.way(1.0, []), "onnxruntime": broken}) == "torch"
    assert "onnxruntime cannot be used here: no library" in caplog.text


def test_the_name_of_a_cpu(monkeypatch, tmp_path):
    intel = "processor\t: 0\nmodel name\t: Xeon(R) 8375C\ncpu family\t: 6\nmodel\t\t: 106\n\nprocessor\t: 1\n"
    arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n\n"
    for text, name in (
        (intel, "Xeon(R) 8375C, family 6, model 106"),
        (arm, "implementer 0x41, part 0xd0c"),
        (None, ""),
    ):
        devices.cpu_name.cache_clear()
        path = tmp_path / "cpuinfo"
        path.write_text(text) if text else path.unlink()
        monkeypatch.setattr(devices, "Path", lambda _, path=path: path)
        assert name in devices.cpu_name()
        assert devices.cpu_name()
    devices.cpu_name.cache_clear()


def test_timings_of_a_real_process_are_found_by_the_next(tmp_path):
    code = (
        "from disk import fastest; fastest.crowded = lambda: False\n"
        "import torch; from disk.products import multiply\n"
        "before = len(fastest.measured()); multiply(torch.rand(20, 30), torch.rand(10, 30))\n"
        "print(before, len(fastest.measured()))"
    )
    environment = {**os.environ, "DISK_HOME": str(tmp_path)}
    said = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout
        for _ in range(2)
    ]
    assert [line.strip() for line in said] == ["0 1", "1 1"]
