"""Sources of the evaluated features: our network, a baseline, or a folder of artifacts."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np

from disk.evaluation.baselines import detect_baseline
from disk.evaluation.detected import DetectedFeatures
from disk.evaluation.options import FeatureOptions
from disk.evaluation.stored import StoredFeatures
from disk.features import Features
from disk.model.checkpoints import load, weights_hash

Source = DetectedFeatures | StoredFeatures


def open_sources(options: FeatureOptions, folder: str = "") -> list[Source]:
    """Open all feature sources that the options name.

    folder: sub-folder to try first in each of --features, for one of several scenes.

    Raises DiskError for invalid options and missing weights or artifacts.
    """
    options.check()
    methods = options.method or (() if options.features else ("disk",))
    sources: list[Source] = []
    for method in methods:
        if method == "disk":
            sources += [_network(name, options, alone=len(options.weights) == 1) for name in options.weights]
        else:
            sources.append(DetectedFeatures(method, method, _baseline(method), options))
    for path in options.features:
        inner = path / folder
        sources.append(StoredFeatures(path.name or str(path), inner if folder and inner.exists() else path, options.n))
    return sources


def _network(name: str, options: FeatureOptions, alone: bool) -> DetectedFeatures:
    model = load(name, options.device)

    def detect(image: np.ndarray, n: int) -> Features:
        # images are already resized, the same for all methods
        return cast(Features, model.detect(image, n=n, max_size=0)).cpu()

    label = "disk" if alone and name == "default" else f"disk {name}"
    key = f"disk {weights_hash(model)} {model.engine.name} {model.device.type}"
    return DetectedFeatures(label, key, detect, options)


def _baseline(method: str) -> Callable[[np.ndarray, int], Features]:
    return lambda image, n: detect_baseline(method, image, n)
