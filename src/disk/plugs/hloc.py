"""DISK as an extractor of hloc (cvg/Hierarchical-Localization).

hloc looks up extractor classes in the module `hloc.extractors.NAME`, and configurations in two dictionaries.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any, ClassVar

from disk.errors import DiskError
from disk.features import Features
from disk.model.checkpoints import load

NAME = "disk_features"

FEATURES: dict[str, dict[str, Any]] = {
    "disk-features": {
        "output": "feats-disk-features-n5000-r1600",
        "model": {"name": NAME, "weights": "default", "max_keypoints": 5000},
        "preprocessing": {"grayscale": False, "resize_max": 1600},
    },
    "disk-features-depth": {  # the weights that LightGlue was trained for
        "output": "feats-disk-features-depth-n5000-r1600",
        "model": {"name": NAME, "weights": "depth", "max_keypoints": 5000},
        "preprocessing": {"grayscale": False, "resize_max": 1600},
    },
}
MATCHERS: dict[str, dict[str, Any]] = {
    "disk-features+mnn": {
        "output": "matches-disk-features-mnn",
        "model": {"name": "nearest_neighbor", "do_mutual_check": True, "ratio_threshold": 0.95},
    },
    "disk-features+lightglue": {
        "output": "matches-disk-features-lightglue",
        "model": {"name": "lightglue", "features": "disk"},
    },
}


def register() -> None:
    """Add the extractor `disk_features` and the configurations FEATURES and MATCHERS to hloc, in this process.

    Raises DiskError if hloc is not installed.
    """
    try:
        base = importlib.import_module("hloc.utils.base_model").BaseModel
        tables = [importlib.import_module(f"hloc.{name}").confs for name in ("extract_features", "match_features")]
    except ImportError as error:
        raise DiskError(
            f"hloc cannot be imported ({error}); install it from https://github.com/cvg/Hierarchical-Localization"
        ) from None
    module = ModuleType(f"hloc.extractors.{NAME}")
    module.DiskFeatures = _extractor(base, module.__name__)  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    for table, ours in zip(tables, (FEATURES, MATCHERS), strict=True):
        table.update(ours)


def _extractor(base: Any, module: str) -> type:
    class DiskFeatures(base):
        """`disk.load().detect` as an extractor; conf: weights, max_keypoints, nms_window_size, precision."""

        default_conf: ClassVar = {
            "weights": "default", "max_keypoints": 5000, "nms_window_size": 5, "precision": "auto",
        }  # fmt: skip
        required_inputs: ClassVar = ["image"]

        def _init(self, conf: dict[str, Any]) -> None:
            self.net = load(conf["weights"], "cpu", conf["precision"])

        def _forward(self, data: dict[str, Any]) -> dict[str, Any]:
            options = {"n": self.conf["max_keypoints"], "window": self.conf["nms_window_size"]}
            found: list[Features] = self.net.detect(list(data["image"]), max_size=0, **options)
            return {
                "keypoints": [features.keypoints for features in found],
                "keypoint_scores": [features.scores for features in found],
                "descriptors": [features.descriptors.T for features in found],
            }

    DiskFeatures.__module__ = module  # hloc ignores classes defined in another module
    return DiskFeatures
