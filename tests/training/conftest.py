"""Small training data: photos of noise, and a scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from wall import write_wall


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        coarse = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((160, 160), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with train/ and test/: a textured wall at depth 2, cameras in a row; one image has no depth."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        write_wall(folder / split, tuples=[[i, i + 1, i + 2] for i in range(6)] if split == "train" else [[0, 2, 4]])
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    """The same sums in the same order, in this process and its children."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
