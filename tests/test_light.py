"""What works without extras, and the messages about what does not."""

import subprocess
import sys

# simulates an installation without extras
WITHOUT_EXTRAS = """
import importlib.abc, importlib.util, sys
blocked = {"jaxtyping"}
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in blocked else real(name, *rest)
from disk.errors import OPTIONAL
blocked |= set(OPTIONAL)
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS + code], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_detection_and_matching_need_no_extra() -> None:
    out = run(
        """
import numpy as np, disk
from PIL import Image
model = disk.load("default", "cpu")
image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))
first, second = model.detect([image, image], n=50)
print(model.engine.name, len(disk.match(first, second)))
"""
    )
    assert out.split() == ["torch", "50"]


def test_a_missing_extra_is_named_in_one_line() -> None:
    out = run(
        """
import disk
from disk.cli.main import main
print(main(["detect", "a", "b"]))
for wanted in (lambda: disk.reconstruct, lambda: disk.load("default", "cpu", backend="onnx").engine):
    try:
        wanted()
    except disk.DiskError as error:
        print(isinstance(error, ImportError), error)
"""
    )
    lines = out.splitlines()
    assert "2" in lines
    assert "disk detect: tyro is not installed; run: pip install 'disk-features[cli]'" in lines
    assert "True h5py is not installed; run: pip install 'disk-features[cli]'" in lines
    assert "True onnxruntime is not installed; run: pip install 'disk-features[onnx]'" in lines
