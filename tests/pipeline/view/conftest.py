"""A folder of photos, its artifacts, and no display."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from view_folder import MATCHES, NAMES, write_pairs

from disk.pipeline import view as stage


@pytest.fixture(autouse=True)
def _no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_has_display", lambda: False)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name, extension in zip(NAMES, ("jpg", "png", "JPG"), strict=True):
        Image.new("RGB", (160, 120), "gray").save(folder / f"{name}.{extension}")
    return folder


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Artifacts as the original writes them, and inliers: the first two matches of two of the pairs."""
    folder = tmp_path / "artifacts"
    folder.mkdir()
    rng = np.random.default_rng(0)
    with h5py.File(folder / "keypoints.h5", "w") as keypoints, h5py.File(folder / "scores.h5", "w") as scores:
        for name in NAMES:
            keypoints[name] = rng.uniform(0, 119, (8, 2)).astype(np.float32)
            scores[name] = np.sort(rng.uniform(0, 5, 8))[::-1].astype(np.float32)
    write_pairs(folder / "matches.h5", MATCHES)
    write_pairs(folder / "inliers.h5", dict.fromkeys(list(MATCHES)[:2], 2))
    return folder
