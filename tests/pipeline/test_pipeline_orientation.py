"""A photo stored rotated, with its EXIF orientation, has the features of the upright one in its stored pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from disk.images.orientation import to_stored, upright_points
from disk.pipeline.detect import DetectOptions, detect
from disk.storage.artifacts import FeatureStore, read_features


def save_turned(upright: np.ndarray, path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(to_stored(upright, orientation)).save(path, exif=exif)


def detected(root: Path, name: str, **options: object) -> FeatureStore:
    detect(root / f"{name} out", root / name, DetectOptions(n=60, backend="torch", **options))
    return read_features(root / f"{name} out")


@pytest.mark.parametrize("max_size", [0, 60])
def test_features_do_not_depend_on_how_the_photo_is_stored(tmp_path: Path, photo: np.ndarray, max_size: int) -> None:
    upright = photo[:64, :96].copy()
    mask = np.full((64, 96), 255, np.uint8)
    mask[:, 60:] = 0
    for orientation in range(1, 9):
        save_turned(upright, tmp_path / f"in/{orientation}.png", orientation)
        # a mask is stored like its image and needs no orientation tag
        save_turned(to_stored(mask, orientation), tmp_path / f"masks/{orientation}.png.png", 1)
    with detected(tmp_path, "in", max_size=max_size, mask_dir=tmp_path / "masks") as store:
        expected = store["1"]
        assert len(expected) > 20
        assert expected.keypoints[:, 0].max() < 60.5
        for orientation in range(2, 9):
            found = store[str(orientation)]
            size = (96, 64) if orientation <= 4 else (64, 96)
            assert store.image_size(str(orientation)) == size
            assert torch.equal(found.descriptors, expected.descriptors)
            shown = upright_points(found.keypoints.numpy(), orientation, size)
            np.testing.assert_allclose(shown, expected.keypoints, atol=1e-4)
