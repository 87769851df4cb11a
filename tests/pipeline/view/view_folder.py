"""The images and pairs for the tests of pictures."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

NAMES = ("a", "b.v1", "sub/c")
MATCHES = {("a", "b.v1"): 3, ("a", "sub/c"): 5, ("b.v1", "sub/c"): 4}


def write_pairs(path: Path, counts: dict[tuple[str, str], int]) -> None:
    with h5py.File(path, "w") as file:
        for (first, second), count in counts.items():
            group = file.require_group(first.replace("/", "|"))
            group[second.replace("/", "|")] = np.stack([np.arange(count), np.arange(count)[::-1]])
