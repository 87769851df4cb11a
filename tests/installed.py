"""The installed wheel, with only its required dependencies, matches an image and names what the commands need."""

import subprocess
import sys
from pathlib import Path

import numpy as np

import disk

assert Path(__file__).parents[1] / "src" not in Path(disk.__file__).parents, "this is the checkout, not the wheel"

image = np.random.default_rng(0).integers(0, 256, (128, 160, 3), dtype=np.uint8)
first, second = disk.load().detect([image, image[:, 16:]], n=200)
matches = disk.match(first, second)
shifts = matches.points0 - matches.points1
assert len(matches) > 20, f"{len(matches)} matches between an image and a crop of it"
assert np.abs(np.median(shifts.numpy(), axis=0) - (16, 0)).max() < 0.5, "the crop starts 16 pixels to the right"

command = [str(Path(sys.executable).with_name("disk")), "detect", "--help"]
answer = subprocess.run(command, capture_output=True, text=True, check=False)
assert answer.returncode == 2, answer.stderr
assert "disk-features[cli]" in answer.stderr, answer.stderr
print(f"disk-features {disk.__version__} is installed and works")
