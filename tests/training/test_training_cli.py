"""`disk train` as a command: what it needs, its exit codes, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from disk.cli.main import main

TINY = ["--height", "48", "--width", "48", "--desc-dim", "8", "--chunk-size", "2", "--warmup", "2", "--n-epochs", "1"]
TINY += ["--batch-size", "1", "--views", "2", "--test-scene-limit", "1", "--workers", "1"]

# all that the package may use elsewhere, and all that the test run brings along
WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Missing())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {absent} else find(name, package)
from disk.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
ABSENT = {"jaxtyping", "beartype", "safetensors", "filelock", "onnx", "onnxscript", "onnxruntime", "pycolmap"}
ABSENT |= {"poselib", "matplotlib", "kornia", "cv2", "scipy", "skimage"}
ABSENT |= {"pillow_heif", "ray", "rich", "pytest", "hypothesis"}


def test_synthetic_training_needs_few_libraries(photos: Path, tmp_path: Path) -> None:
    arguments = ["train", "--synthesize", str(photos), "--save-dir", str(tmp_path), "--augment", *TINY]
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(absent=ABSENT), *arguments], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert "no poses in the validation" in result.stderr
    assert (tmp_path / "final.pth").exists()


def test_interrupt_saves_and_exits_with_0(data: Path, tmp_path: Path) -> None:
    """A process that reads with a worker, interrupted as by Ctrl-C: all of its group."""
    endless = [*TINY, "--chunk-size", "6", "--n-epochs", "100000", "--test-scene-limit", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "disk", "train", str(data), "--save-dir", str(tmp_path), *endless],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and process.poll() is None:
            log = tmp_path / "log.jsonl"
            if log.exists() and len(log.read_text(encoding="utf-8").splitlines()) >= 3:
                break
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert err.count("stopping after this step") == 1
    assert "weights:" in out
    assert torch.load(tmp_path / "last.pth", weights_only=True)["position"][2] >= 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "disk train: nothing to train on"),
        (["nowhere"], "disk train: nowhere"),
        (["--synthesize", "nowhere"], "nowhere"),
        (["DATA", "--height", "50"], "height"),
        (["DATA", "--chunk-size", "100"], "chunk"),
        (["DATA", "--save-dir", "file/run"], "file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    # options given twice: the last one counts
    given = [str(data) if a == "DATA" else a for a in arguments]
    assert main(["train", *TINY, *given]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert not any("Traceback" in line for line in error)
