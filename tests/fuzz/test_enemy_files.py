"""Malicious files: their attacks are refused in one line before they take effect."""

from __future__ import annotations

import io
import json
import pickle
import sqlite3
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_isolation import outcomes, refused
from fuzz_seeds import make_model
from PIL import Image

from disk.errors import ColmapError, DiskError
from disk.images.reading import read_upright
from disk.model.checkpoints import load, read_state
from disk.training.logs import read_scalars
from disk.training.state import saved_options

linux = pytest.mark.skipif(sys.platform != "linux", reason="bounds memory by way of /proc")
HUGE = 10**12


class Code:
    """Code that a pickle runs when it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("pickled-code-was-run", "w")


def test_checkpoints_with_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"disk": {"a": Code()}}, "new.pth")
    torch.save(Code(), "old.pth", _use_new_zipfile_serialization=False)
    Path("bare.pth").write_bytes(pickle.dumps(Code()))
    for name in ("new.pth", "old.pth", "bare.pth"):
        for read in (read_state, saved_options, load):
            with pytest.raises(DiskError, match=name):
                read(Path(name))
    assert not Path("pickled-code-was-run").exists()


@linux
def test_checkpoints_that_expand(tmp_path: Path) -> None:
    content = io.BytesIO()
    torch.save({"disk": {"a": torch.zeros(50_000_000)}}, content)
    with zipfile.ZipFile(content) as plain, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in plain.namelist():
            packed.writestr(entry, plain.read(entry))
    assert (tmp_path / "bomb.pth").stat().st_size < 1_000_000
    last = "unet.path_up.3.conv.3.weight"
    torch.save({last: torch.zeros(1).expand(HUGE, 1, 1, 1)}, tmp_path / "repeated.pth")
    torch.save({last: torch.empty(HUGE, 1, 1, 1, device="meta")}, tmp_path / "meta.pth")
    for name in ("bomb", "repeated", "meta"):
        for read in (load, saved_options):
            refused(read, tmp_path / f"{name}.pth")


@linux
@pytest.mark.parametrize("length", [1 << 40, (1 << 64) - 1, 90_000_000])
def test_safetensors_with_a_header_that_lies(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b'{"a": {}}')
    refused(read_state, path)
    header = json.dumps({"a": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    refused(read_state, path)


@linux
def test_events_of_tensorboard_that_lie(tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("tensorboard.compat.tensorflow_stub.pywrap_tensorflow")
    length = struct.pack("<Q", 1 << 45)
    content = length + struct.pack("<I", tensorboard.masked_crc32c(length)) + bytes(100)
    (tmp_path / "events.out.tfevents.1").write_bytes(content)
    refused(read_scalars, tmp_path / "events.out.tfevents.1")


@linux
@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("ALTER TABLE keypoints RENAME TO k; CREATE VIEW keypoints AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL "
         "SELECT n + 1 FROM c) SELECT n AS image_id, 1 AS rows, 2 AS cols, x'00' AS data FROM c", "a view"),
        ("CREATE TRIGGER t AFTER DELETE ON images BEGIN DELETE FROM cameras; END", "a trigger"),
        ("UPDATE keypoints SET rows = 1000000000", "do not have the size they state"),
        ("UPDATE keypoints SET rows = -1", "do not have the size they state"),
        ("UPDATE matches SET data = NULL", "do not have the size they state"),
        ("UPDATE images SET camera_id = 77", "no camera for"),
        ("UPDATE cameras SET model = 99", "damaged"),
        ("UPDATE cameras SET params = x'00'", "damaged"),
    ],
)  # fmt: skip
def test_databases_that_lie(tmp_path: Path, sql: str, says: str) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    from disk.colmap.database import fingerprint, open_database

    database = pycolmap.Database.open(tmp_path / "a.db")
    camera = database.write_camera(pycolmap.Camera.create_from_model_name(1, "PINHOLE", 50.0, 64, 48))
    ids = [database.write_image(pycolmap.Image(name=name, camera_id=camera)) for name in ("a.jpg", "b.jpg")]
    database.write_keypoints(ids[0], np.zeros((5, 2), np.float32))
    database.write_matches(*ids, np.zeros((2, 2), np.uint32))
    database.close()

    def read(path: Path) -> None:
        with open_database(path) as opened:
            fingerprint(opened)
            opened.read_keypoints(ids[0])

    assert outcomes(read, [tmp_path / "a.db"]) == ["read"]
    with sqlite3.connect(tmp_path / "a.db") as opened:
        opened.executescript(sql)
    opened.close()
    assert says in refused(read, tmp_path / "a.db")


@linux
def test_models_that_lie(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    from disk.colmap.workspace import open_workspace

    for part, start in (("images.bin", 0), ("points3D.bin", 0), ("cameras.bin", 0), ("images.bin", 8 + 64 + 9)):
        folder = tmp_path / f"{part} {start}"
        make_model(folder, "bin")
        content = bytearray((folder / part).read_bytes())
        content[start : start + 8] = struct.pack("<Q", 1 << 50)
        (folder / part).write_bytes(content)
        assert "model" in refused(lambda path: open_workspace(path, tmp_path), folder)
    make_model(folder := tmp_path / "a name without end", "bin")
    (folder / "images.bin").write_bytes((folder / "images.bin").read_bytes()[: 8 + 64 + 4])
    assert "cut short" in refused(lambda path: open_workspace(path, tmp_path), folder)


@linux
def test_images_that_expand(tmp_path: Path) -> None:
    """A few bytes that claim to be 2.5 billion pixels, in each of the formats."""
    side = 50_000
    for suffix in ("png", "bmp", "ppm", "tif", "jpg", "webp"):
        Image.new("RGB", (16, 16)).save(path := tmp_path / f"a.{suffix}")
        content = bytearray(path.read_bytes())
        if suffix == "ppm":
            content = bytearray(f"P6 {side} {side} 255\n".encode())
        elif suffix == "png":
            content[16:24] = struct.pack(">II", side, side)
        elif suffix == "bmp":
            content[18:26] = struct.pack("<ii", side, side)
        elif suffix == "jpg":
            start = content.index(b"\xff\xc0")
            content[start + 5 : start + 9] = struct.pack(">HH", side, side)
        elif suffix == "tif":
            for tag in (b"\x00\x01", b"\x01\x01"):
                start = content.index(tag, content.index(b"\x00\x01"))
                content[start + 2 : start + 12] = struct.pack("<HII", 4, 1, side)
        else:
            path.write_bytes(
                b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8L" + struct.pack("<I", 10) + b"\x2f" + b"\xff" * 9
            )
            content = bytearray(path.read_bytes())
        path.write_bytes(content)
        refused(read_upright, path)


def test_a_database_with_invalid_content(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    from disk.colmap.database import open_database

    (tmp_path / "a.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    with pytest.raises(ColmapError, match=r"a\.db"), open_database(tmp_path / "a.db"):
        pass
