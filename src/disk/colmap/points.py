"""The 3D points of a model, for pictures and measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap

from disk.shapes import Float, UInt8


def read_points(model: Path) -> tuple[Float[np.ndarray, "n 3"], UInt8[np.ndarray, "n 3"]]:
    """World coordinates and RGB colours of a model folder's points, in the order of their ids."""
    points = sorted(pycolmap.Reconstruction(model).points3D.items())
    xyz = np.array([point.xyz for _, point in points]).reshape(-1, 3)
    return xyz, np.array([point.color for _, point in points], dtype=np.uint8).reshape(-1, 3)
