"""torch.hub: torch.hub.load("PATH or OWNER/REPOSITORY", "disk")."""

import sys
from pathlib import Path
from typing import Any

dependencies = ["torch", "numpy", "PIL", "safetensors"]


def disk(weights: str = "default", **options: Any) -> Any:
    """A DISK network, as `disk.load`: weights: default, depth, epipolar, or a file; options: device, precision, ..."""
    source = str(Path(__file__).parent / "src")
    if source not in sys.path:
        sys.path.insert(0, source)
    from disk.model.checkpoints import load

    return load(weights, **options)
