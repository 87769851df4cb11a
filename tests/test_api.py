"""The package as users see it: names, examples, types."""

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import disk


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_costs_no_torch() -> None:
    assert run("import sys, disk; dir(disk); disk.__version__; print('torch' in sys.modules)").strip() == "False"


def test_all_names_exist_and_no_others() -> None:
    assert dir(disk) == sorted(disk.__all__)
    for name in disk.__all__:
        assert getattr(disk, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        disk.lode  # noqa: B018
    assert disk.__version__[0].isdigit()


@pytest.mark.parametrize("module", ["disk.features", "disk.matching.api", "disk.model.checkpoints", "disk.model.disk"])
def test_examples_run(module: str) -> None:
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted > 0
    assert results.failed == 0


USE = """
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import disk

model: disk.DISK = disk.load("default", device="cpu", precision="fp32")
one: disk.Features = model.detect(Image.new("RGB", (64, 64)), n=20)
same: disk.Features = model.detect(Path("a.jpg"), disk.DetectionOptions(n=20, subpixel=False))
several: list[disk.Features] = model.detect(["a.jpg", np.zeros((64, 64, 3), np.uint8)])
either: disk.Features | list[disk.Features] = model.detect(torch.zeros(1, 3, 64, 64))
found: disk.Matches = disk.match(one, several[0], ratio=0.9)
many: list[disk.Matches] = disk.match(one, several)
plain: disk.Matches = disk.match(np.eye(4), torch.eye(4), ratio=None)
points: torch.Tensor = one.keypoints[found.indices[:, 0]]
half: disk.DISK = model.half()
"""
WRONG = {
    'disk.load("default", precision="fp17")': "arg-type",
    "disk.load().detect('a.jpg', m=3)": "call-overload",
    "disk.load().detect(['a.jpg']).keypoints": "attr-defined",
}


@pytest.mark.slow
def test_types_hold_for_users(tmp_path: Path) -> None:
    """Under mypy --strict, correct use passes and wrong use is found."""
    (tmp_path / "use.py").write_text(USE)
    (tmp_path / "wrong.py").write_text("import disk\n" + "\n".join(WRONG) + "\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "use.py", "wrong.py"]
    lines = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout.splitlines()
    assert not [line for line in lines if line.startswith("use.py")]
    for number, kind in enumerate(WRONG.values(), start=2):
        assert [line for line in lines if line.startswith(f"wrong.py:{number}:") and f"[{kind}]" in line]
