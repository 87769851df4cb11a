"""`disk train` as a command: what it needs, its exit codes, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from disk.cli.main import main
from disk.training.state import saved_options

TINY = ["--height", "48", "--width", "48", "--desc-dim", "8", "--chunk-size", "2", "--warmup", "2", "--n-epochs", "1"]
TINY += ["--batch-size", "1", "--views", "2", "--test-scene-limit", "1", "--workers", "1"]

# hides the libraries that only other parts of the package need, and those of the test run
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
    assert "validation skips relative poses" in result.stderr
    assert (tmp_path / "final.pth").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_saves_and_exits_with_0(
    number: signal.Signals, data: Path, photos: Path, tmp_path: Path
) -> None:
    """A process with a reader and a renderer: Ctrl-C, and the signal of SLURM."""
    sources = [str(data), "--synthesize", str(photos), "--save-dir", str(tmp_path), "--renderers", "1"]
    endless = [*TINY, "--chunk-size", "6", "--n-epochs", "100000", "--test-scene-limit", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "disk", "train", *sources, *endless],
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
        if process.poll() is None:
            os.killpg(process.pid, number)
        out, err = process.communicate(timeout=100)  # returns once its helpers, who share stderr, have ended too
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert err.count("stopping after this step") == 1
    assert "weights:" in out
    assert torch.load(tmp_path / "last.pth", weights_only=True)["position"][2] >= 3


def test_a_resumed_training_keeps_its_options_except_given_ones(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Including the data, even in another folder; a switch can be turned off; the time limit applies to one call."""
    monkeypatch.chdir(data.parent)
    run, limit = str(tmp_path / "run"), ["--time-limit", "0"]
    first = ["--augment", "--reward=epipolar", "--save-dir", run, *limit]
    assert main(["train", data.name, *TINY, *first]) == 0
    started_with = saved_options(tmp_path / "run" / "last.pth")
    assert started_with[0] == data
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--save-dir", "run", "--resume", *limit]) == 0
    where, options = saved_options(tmp_path / "run" / "last.pth")
    assert (where, options) == (data, replace(started_with[1], resume=True))
    given = ["--no-augment", "--lr", "2e-5", "--n_epochs", "3"]
    assert main(["train", "--resume", "--save-dir", "run", *given, *limit]) == 0
    changed = saved_options(tmp_path / "run" / "last.pth")[1]
    assert changed == replace(options, augment=False, lr=2e-5, n_epochs=3)


def test_help_explains_what_resuming_keeps(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "with the original DATA and options; options given with --resume replace them" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "disk train: nothing to train on"),
        (["nowhere"], "disk train: nowhere"),
        (["--synthesize", "nowhere"], "nowhere"),
        (["DATA", "--height", "50"], "--height 50: must be a multiple of 16"),
        (["DATA", "--batch-size", "7"], "use a smaller --batch-size, or add data"),
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
    # of options given twice, the last one counts
    given = [str(data) if a == "DATA" else a for a in arguments]
    assert main(["train", *TINY, *given]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert not any("Traceback" in line for line in error)
