"""onnxruntime runs without telemetry."""

import os
import shutil
import subprocess
import sys

import pytest

from disk.model.onnx.runtime import import_onnxruntime

DETECT = """
import torch, disk
print(len(disk.load(device="cpu", backend="onnx").detect(torch.rand(3, 32, 32))) >= 0)
"""


@pytest.fixture(scope="module")
def detection(tmp_path_factory):
    """Runs it in an empty home, under strace where available; returns (home, connections or why none were traced)."""
    home, trace = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("trace") / "calls"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "ORT_"))} | {"HOME": str(home)}
    command = [sys.executable, "-c", DETECT]
    why = "strace is not installed"
    if shutil.which("strace"):
        strace = ["strace", "-f", "--seccomp-bpf", "-e", "trace=connect", "-o", str(trace)]
        done = subprocess.run([*strace, *command], capture_output=True, text=True, env=environment)
        if done.stdout == "True\n":
            return home, [line for line in trace.read_text().splitlines() if "connect(" in line]
        why = f"strace cannot run here: {done.stderr.strip()[-200:]}"
    assert subprocess.run(command, capture_output=True, text=True, env=environment).stdout == "True\n"
    return home, why


def test_nothing_is_written_to_the_home_folder(detection):
    assert list(detection[0].rglob("*")) == []


def test_no_connection_is_made(detection):
    if isinstance(detection[1], str):
        pytest.skip(detection[1])
    assert detection[1] == []


def test_the_users_own_setting_is_respected(monkeypatch):
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    import_onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    import_onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_nothing_else_imports_it():
    """The first import of onnxruntime decides about telemetry, so there is a single place for it."""
    import disk

    root = os.path.dirname(disk.__file__)
    found = []
    for folder, _, files in os.walk(root):
        for name in files:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                with open(path) as file:
                    if any(line.lstrip().startswith(("import onnxruntime", "from onnxruntime")) for line in file):
                        found.append(os.path.relpath(path, root))
    assert found == [os.path.join("model", "onnx", "runtime.py")]
