"""DISK: local features learned by policy gradient (arXiv 2006.13566).

    import disk

    model = disk.load()
    first, second = model.detect(["a.jpg", "b.jpg"], n=2048)
    matches = disk.match(first, second)

    disk.reconstruct("photos", "model")
    disk.localize("model", "more photos", "located")

Every command is also a function: `from disk.pipeline.detect import DetectOptions, detect`, for example.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# names are imported on first use, so that `import disk` costs nothing
_NAMES = {
    "DISK": "disk.model.disk",
    "DetectionOptions": "disk.model.options",
    "DiskError": "disk.errors",
    "Features": "disk.features",
    "FramesOptions": "disk.pipeline.frames",
    "LocalizeOptions": "disk.pipeline.localize",
    "Matches": "disk.features",
    "ReconstructOptions": "disk.pipeline.reconstruct",
    "Reconstruction": "disk.pipeline.reconstruct",
    "frames": "disk.pipeline.frames",
    "load": "disk.model.checkpoints",
    "localize": "disk.pipeline.localize",
    "match": "disk.matching.api",
    "reconstruct": "disk.pipeline.reconstruct",
}
__all__ = [
    "DISK",
    "DetectionOptions",
    "DiskError",
    "Features",
    "FramesOptions",
    "LocalizeOptions",
    "Matches",
    "ReconstructOptions",
    "Reconstruction",
    "__version__",
    "frames",
    "load",
    "localize",
    "match",
    "reconstruct",
]

if TYPE_CHECKING:
    from disk.errors import DiskError
    from disk.features import Features, Matches
    from disk.matching.api import match
    from disk.model.checkpoints import load
    from disk.model.disk import DISK
    from disk.model.options import DetectionOptions
    from disk.pipeline.frames import FramesOptions, frames
    from disk.pipeline.localize import LocalizeOptions, localize
    from disk.pipeline.reconstruct import Reconstruction, ReconstructOptions, reconstruct

    __version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("disk-features")
    if name not in _NAMES:
        raise AttributeError(f"module 'disk' has no attribute {name!r}")
    try:
        module = importlib.import_module(_NAMES[name])
    except ModuleNotFoundError as error:
        from disk.errors import explain_missing

        raise explain_missing(error) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
