"""DISK: local features learned by policy gradient (arXiv 2006.13566).

    import disk

    model = disk.load()
    features = [model.detect(image, n=2048) for image in images]
    matches = disk.match(features[0], features[1], ratio=0.95)

Every command is a function as well: `from disk.pipeline.detect import DetectOptions, detect` and so on.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# names are imported on first use, so that `import disk` costs nothing
_NAMES = {
    "DISK": "disk.model.disk",
    "Features": "disk.features",
    "Matches": "disk.features",
    "load": "disk.model.checkpoints",
    "match": "disk.matching.nearest",
}
__all__ = ["DISK", "Features", "Matches", "load", "match"]

if TYPE_CHECKING:
    from disk.features import Features, Matches
    from disk.matching.nearest import match
    from disk.model.checkpoints import load
    from disk.model.disk import DISK


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'disk' has no attribute {name!r}")
    return getattr(importlib.import_module(_NAMES[name]), name)
