"""DISK as an extractor of deep-image-matching (3DOM-FBK).

deep-image-matching looks up extractor classes in the module `deep_image_matching.extractors.NAME`, and configurations
in `deep_image_matching.config`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from disk.errors import DiskError
from disk.model.checkpoints import load

NAME = "disk_features"

CONFIGURATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "disk-features+kornia_matcher": {
        "extractor": {"name": NAME, "weights": "default", "max_keypoints": 4096},
        "matcher": {"name": "kornia_matcher", "match_mode": "smnn", "th": 0.95},
    },
    "disk-features+lightglue": {  # with the weights that LightGlue was trained for
        "extractor": {"name": NAME, "weights": "depth", "max_keypoints": 4096},
        "matcher": {"name": "lightglue"},
    },
}


def register() -> None:
    """Add the extractor `disk_features` and CONFIGURATIONS to deep-image-matching, in this process.

    Raises DiskError if deep-image-matching is not installed.
    """
    try:
        base = importlib.import_module("deep_image_matching.extractors.extractor_base").ExtractorBase
        config = importlib.import_module("deep_image_matching.config")
    except ImportError as error:
        raise DiskError(
            f"deep-image-matching cannot be imported ({error}); "
            "install it from https://github.com/3DOM-FBK/deep-image-matching"
        ) from None
    module = ModuleType(f"deep_image_matching.extractors.{NAME}")
    module.DiskFeaturesExtractor = _extractor(base, module.__name__)  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    config.confs.update(CONFIGURATIONS)
    if NAME not in config.opt_zoo["extractors"]:
        config.opt_zoo["extractors"].append(NAME)


def _extractor(base: Any, module: str) -> type:
    class DiskFeaturesExtractor(base):
        """`disk.load().detect` as an extractor; config: weights, max_keypoints, nms_window_size."""

        _default_conf: ClassVar = {"weights": "default", "max_keypoints": 4096, "nms_window_size": 5}
        required_inputs: ClassVar = ["image"]
        grayscale = False
        as_float = True
        descriptor_size = 128

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            chosen = self.config["extractor"]
            self._extractor = load(chosen["weights"], self._device)
            self._options = {"n": chosen["max_keypoints"], "window": chosen["nms_window_size"]}

        def _extract(self, image: np.ndarray) -> dict[str, np.ndarray]:
            pixels = self._preprocess_tensor(image, self._device)
            (features,) = self._extractor.detect([pixels], max_size=0, **self._options)
            arrays = features.numpy()
            return {**arrays, "descriptors": np.ascontiguousarray(arrays["descriptors"].T)}

        def _preprocess_tensor(self, image: np.ndarray, device: str = "cpu") -> np.ndarray:
            """Convert OpenCV's BGR in 0..255 to RGB in 0..1."""
            return np.ascontiguousarray(image[..., ::-1], dtype=np.float32) / 255

    DiskFeaturesExtractor.__module__ = module
    return DiskFeaturesExtractor
