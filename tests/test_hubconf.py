"""torch.hub reads hubconf.py at the root."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_torch_hub_loads_the_network_of_this_folder(tmp_path):
    code = f"""
import torch
model = torch.hub.load({str(ROOT)!r}, "disk", source="local", weights="default", device="cpu")
import disk
print(disk.__file__, type(model).__name__, len(model.detect(torch.rand(3, 48, 64), n=5)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == [str(ROOT / "src" / "disk" / "__init__.py"), "DISK", "5"]
