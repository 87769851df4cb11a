"""A scene of a wall, written as a data set for training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from disk.datasets.files import Calibration, write_calibration, write_depth
from disk.datasets.scenes import Scene, write_dataset_json

SIZE = 48


def write_wall(folder: Path, tuples: list[list[int]], count: int = 8) -> None:
    for name in ("images", "calibration", "depth"):
        (folder / name).mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (SIZE // 4, 40, 3), dtype=np.uint8)
    wall = np.array(Image.fromarray(noise).resize((160, SIZE), Image.Resampling.BICUBIC))
    K = np.array([[SIZE, 0, (SIZE - 1) / 2], [0, SIZE, (SIZE - 1) / 2], [0, 0, 1]])
    names = [f"{i}.png" for i in range(count)]
    for i, name in enumerate(names):
        # shifted by 4 pixels to the right: 4 / 48 * 2 along the wall
        Image.fromarray(wall[:, 4 * i : 4 * i + SIZE]).save(folder / "images" / name)
        write_calibration(folder / "calibration", name, Calibration(K, np.eye(3), np.array([-4 * i / SIZE * 2, 0, 0])))
        if i != 7:
            write_depth(folder / "depth", name, np.full((SIZE, SIZE), 2.0, dtype=np.float32))
    scene = Scene("wall", folder / "images", folder / "calibration", folder / "depth", names, np.array(tuples))
    write_dataset_json(folder / "dataset.json", [scene], relative=True)
