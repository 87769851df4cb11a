"""Images too large for memory: detected in tiles, and decoded one at a time."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from brightest_pixel import BrightestPixel
from PIL import Image

from disk.errors import PartialFailureError
from disk.model import disk as facade
from disk.model import tiled
from disk.pipeline import loading
from disk.pipeline.detect import DetectOptions, detect
from disk.storage.artifacts import FeatureStore


def test_detect_works_in_tiles_reports_it_and_stores_the_same(monkeypatch, photo_folder, tmp_path, caplog):
    caplog.set_level("INFO", "disk")
    options = DetectOptions(n=50, max_size=0, backend="torch", device="cpu")
    detect(tmp_path / "whole", photo_folder, options)
    assert "overlapping" not in caplog.text
    monkeypatch.setattr(facade, "fits", lambda *arguments: False)
    monkeypatch.setattr(tiled, "tile_side", lambda *arguments: 48)
    detect(tmp_path / "tiles", photo_folder, replace(options, workers=2))
    assert "96 x 64 does not fit into memory; running in 4 overlapping tiles of at most 96 x 64" in caplog.text
    with FeatureStore(tmp_path / "whole") as whole, FeatureStore(tmp_path / "tiles") as tiles:
        assert list(whole.names) == list(tiles.names)
        for name in whole.names:
            np.testing.assert_allclose(tiles[name].keypoints, whole[name].keypoints, atol=1e-3)


def test_large_images_are_decoded_when_it_is_their_turn_and_alone(monkeypatch, tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(6):
        Image.fromarray(np.zeros((16, 16 if i % 2 else 64, 3), np.uint8)).save(tmp_path / "in" / f"{i}.png")
    (tmp_path / "in" / "6.png").write_bytes((tmp_path / "in" / "0.png").read_bytes()[:45])  # only the header is valid
    decoded = {}
    read = loading.read_upright

    def reading(path):
        decoded[path.stem] = threading.current_thread() is threading.main_thread()
        return read(path)

    monkeypatch.setattr(loading, "LARGE_PIXELS", 500)
    monkeypatch.setattr(loading, "read_upright", reading)
    backend = BrightestPixel()
    monkeypatch.setattr("disk.model.disk.make_engine", lambda *arguments: backend)
    with pytest.raises(PartialFailureError, match=r"1 of 7 images could not be read: 6\.png"):
        detect(tmp_path / "out", tmp_path / "in", DetectOptions(batch_size=3))
    assert decoded == {"0": True, "1": False, "2": True, "3": False, "4": True, "5": False, "6": True}
    assert sorted(backend.sizes) == [(1, 3, 16, 64)] * 3 + [(3, 3, 16, 16)]
