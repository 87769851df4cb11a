"""Small data to train on: photographs of noise, and a scene written as a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from disk.datasets.files import Calibration, write_calibration, write_depth
from disk.datasets.scenes import Scene, write_dataset_json

SIZE = 48


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        coarse = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((160, 160), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with train/ and test/: a textured wall at depth 2, cameras in a row; one image without depth."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        write_wall(folder / split, tuples=[[i, i + 1, i + 2] for i in range(6)] if split == "train" else [[0, 2, 4]])
    return folder


def write_wall(folder: Path, tuples: list[list[int]], count: int = 8) -> None:
    for name in ("images", "calibration", "depth"):
        (folder / name).mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (SIZE // 4, 40, 3), dtype=np.uint8)
    wall = np.array(Image.fromarray(noise).resize((160, SIZE), Image.Resampling.BICUBIC))
    K = np.array([[SIZE, 0, (SIZE - 1) / 2], [0, SIZE, (SIZE - 1) / 2], [0, 0, 1]])
    names = [f"{i}.png" for i in range(count)]
    for i, name in enumerate(names):
        # 4 pixels further to the right: 4 / 48 * 2 along the wall
        Image.fromarray(wall[:, 4 * i : 4 * i + SIZE]).save(folder / "images" / name)
        write_calibration(folder / "calibration", name, Calibration(K, np.eye(3), np.array([-4 * i / SIZE * 2, 0, 0])))
        if i != 7:
            write_depth(folder / "depth", name, np.full((SIZE, SIZE), 2.0, dtype=np.float32))
    scene = Scene("wall", folder / "images", folder / "calibration", folder / "depth", names, np.array(tuples))
    write_dataset_json(folder / "dataset.json", [scene], relative=True)


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    """The same sums in the same order, in this process and in those it starts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
