"""A small posed scene in the original's format, with a known camera for each image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

WIDTH, HEIGHT = 60, 40
K = np.array([[50.0, 0, 29.5], [0, 52.0, 19.5], [0, 0, 1]])


def rotation(angle: float) -> np.ndarray:
    """About the y axis, in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


class SceneMaker:
    """Writes scenes below `root`; each image looks along z, and its centre is further right the higher its number."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data: dict[str, dict[str, Any]] = {}

    def scene(
        self,
        name: str = "here",
        images: tuple[str, ...] = ("a.jpg", "b.png", "c.d.tif", "sub/e.jpg"),
        tuples: Any = ((0, 1, 2), (1, 2, 3)),
        depth: bool = True,
    ) -> SceneMaker:
        """Add a scene in `root/name`; its images show the plane z = 5."""
        root = self.root / name
        generator = np.random.default_rng(0)
        for number, image in enumerate(images):
            pixels = generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            path = root / "images" / image
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            calibration = root / "calibration" / Path(image).parent / f"calibration_{Path(image).name}.h5"
            self.h5(calibration, K=K, R=np.eye(3), T=np.array([-0.2 * number, 0, 0]))
            if depth:
                plane = np.full((HEIGHT, WIDTH), 5, dtype=np.float16)
                self.h5((root / "depth" / image).with_suffix(".h5"), depth=plane)
        self.data[name] = {
            "image_path": f"{name}/images",
            "depth_path": f"{name}/depth" if depth else None,
            "calib_path": f"{name}/calibration",
            "images": list(images),
            "tuples": [list(indices) for indices in tuples],
        }
        return self

    @staticmethod
    def h5(path: Path, **arrays: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            for key, value in arrays.items():
                file[key] = value

    def write(self) -> Path:
        """Write the dataset.json of all scenes so far."""
        path = self.root / "dataset.json"
        path.write_text(json.dumps(self.data))
        return path


@pytest.fixture
def maker(tmp_path: Path) -> SceneMaker:
    return SceneMaker(tmp_path)
