"""Files made to do harm: what they ask for is refused before it happens, in one line."""

from __future__ import annotations

import io
import json
import pickle
import sqlite3
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from fuzz_isolation import outcomes
from PIL import Image
from test_fuzz_readers import features_of, make_artifacts, make_model

from disk.cli.main import main
from disk.datasets.files import read_depth
from disk.datasets.scenes import SceneSet
from disk.errors import ArtifactError, ColmapError, DatasetError, DiskError
from disk.images.reading import read_upright
from disk.model.checkpoints import load, read_state
from disk.storage.artifacts import KEYPOINTS, MATCHES, read_features, read_matches
from disk.storage.layouts import HlocFeatures
from disk.storage.names import leads_out
from disk.training.logs import read_scalars
from disk.training.state import saved_options

linux = pytest.mark.skipif(sys.platform != "linux", reason="bounds memory by way of /proc")
HUGE = 10**12


def refused(read: Callable[[Path], Any], path: Path) -> str:
    """Why a reader refuses a file, in bounded time and memory."""
    (outcome,) = outcomes(read, [path])
    assert outcome.startswith("refused: "), outcome
    return outcome


def read_first(folder: Path) -> None:
    with read_features(folder) as store:
        store[store.names[0]]


@linux
@pytest.mark.parametrize("shape", [(HUGE, 2), (3 * 10**8, 2)], ids=["beyond memory", "gigabytes"])
def test_h5_that_expands(tmp_path: Path, shape: tuple[int, int]) -> None:
    artifacts = make_artifacts(tmp_path / "artifacts")
    with h5py.File(artifacts / KEYPOINTS, "a") as file:
        del file["a"]
        file.create_dataset("a", shape, np.float32, chunks=(1 << 20, 2), compression="gzip")
    assert "made to fill the memory" in refused(read_first, artifacts)
    with h5py.File(tmp_path / "depth.h5", "w") as file:
        file.create_dataset("depth", (10**6, 10**6), np.float32, chunks=(1000, 1000), compression="gzip")
    assert "made to fill the memory" in refused(read_depth, tmp_path / "depth.h5")


def test_zeros_that_compress_well_are_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "depth.h5", "w") as file:
        file.create_dataset("depth", data=np.zeros((2000, 2000), np.float32), compression="gzip")
    assert not read_depth(tmp_path / "depth.h5").any()


def test_h5_with_a_filter_that_is_not_here(tmp_path: Path) -> None:
    artifacts = make_artifacts(tmp_path / "artifacts")
    with h5py.File(artifacts / KEYPOINTS, "a") as file:
        del file["a"]
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_chunk((5, 2))
        create.set_filter(32099, h5py.h5z.FLAG_OPTIONAL, (1,))
        h5py.h5d.create(file.id, b"a", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((5, 2)), create)
        file["a"].id.write_direct_chunk((0, 0), bytes(40))
    with pytest.raises(ArtifactError, match=r"keypoints\.h5: /a is packed by HDF5.s filter 32099"):
        read_first(artifacts)


@pytest.mark.parametrize("kind", ["soft", "external", "raw", "virtual"])
def test_h5_that_leads_out_of_the_file(tmp_path: Path, kind: str) -> None:
    artifacts = make_artifacts(tmp_path / "artifacts")
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["secret"] = features_of(0)[KEYPOINTS]
    (tmp_path / "secret").write_bytes(bytes(40))
    with h5py.File(artifacts / "scores.h5", "a") as file:
        del file["a"]
        if kind == "soft":
            file["a"] = h5py.SoftLink("/sub/b")
        elif kind == "external":
            file["a"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "secret")
        elif kind == "raw":
            file.create_dataset("a", (5,), np.float32, external=[(str(tmp_path / "secret"), 0, 20)])
        else:
            layout = h5py.VirtualLayout((5,), np.float32)
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "secret", (5, 2))[:, 0]
            file.create_virtual_dataset("a", layout)
    with pytest.raises(ArtifactError, match=r"is a link, which is not followed|lies in other files"):
        read_first(artifacts)


@linux
def test_h5_with_a_heap_that_never_ends(tmp_path: Path) -> None:
    artifacts = make_artifacts(tmp_path / "artifacts")
    content = bytearray((artifacts / KEYPOINTS).read_bytes())
    start = content.find(b"GCOL\1")
    assert start > 0  # where texts are kept
    content[start + 24 : start + 32] = struct.pack("<q", -16)
    (artifacts / KEYPOINTS).write_bytes(content)
    assert "heap of strings" in refused(read_first, artifacts)


@pytest.mark.parametrize("value", ["text", ["a", "b"], np.zeros(3, [("x", int)]), b"x"], ids=str)
def test_h5_of_other_kinds(tmp_path: Path, value: Any) -> None:
    artifacts = make_artifacts(tmp_path / "artifacts")
    with h5py.File(artifacts / KEYPOINTS, "a") as file:
        del file["a"]
        file["a"] = value
    with pytest.raises(ArtifactError, match=r"keypoints\.h5"):
        read_first(artifacts)
    with h5py.File(artifacts / MATCHES, "a") as file:
        file["a/c"] = value
    with read_matches(artifacts) as matches, pytest.raises(ArtifactError, match=r"matches\.h5"):
        matches["a", "c"]
    with h5py.File(tmp_path / "hloc.h5", "w") as file:
        file["a.jpg/keypoints"] = value
    with HlocFeatures(tmp_path / "hloc.h5") as store, pytest.raises(ArtifactError, match="no keypoints"):
        store["a"]


@pytest.mark.parametrize(("key", "value"), [("image_size", "large"), ("image_size", [1, -1]), ("orientation", "up")])
def test_h5_with_notes_of_other_kinds(tmp_path: Path, key: str, value: Any) -> None:
    artifacts = make_artifacts(tmp_path / "artifacts")
    with h5py.File(artifacts / KEYPOINTS, "a") as file:
        file["a"].attrs[key] = value
    with read_features(artifacts) as store, pytest.raises(ArtifactError, match=f"'a' has .*{key}"):
        store.image_size("a"), store.orientation("a")


@pytest.mark.parametrize("options", ["no json", "[1]", "[" * 50_000])
def test_h5_with_options_of_others(tmp_path: Path, options: str, capsys: pytest.CaptureFixture[str]) -> None:
    artifacts = make_artifacts(tmp_path / "artifacts")
    with h5py.File(artifacts / KEYPOINTS, "a") as file:
        file.attrs["options"] = options
    assert main(["match", str(artifacts), "--device", "cpu", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "keypoints.h5 has options that DISK did not write" in error


OUTSIDE = ["../up", "a/../../up", "/etc/passwd", "a\0b", "", "x" * 5000]
OUTSIDE_ON_WINDOWS = [
    "..\\up",
    "a\\..\\..\\up",
    "C:\\x",
    "C:x",
    "\\\\host\\share\\x",
    "con",
    "a/NUL.jpg",
    "lpt1. ",
    "a:b",
]


def test_names_that_leave_the_folder() -> None:
    assert [name for name in OUTSIDE if not leads_out(name, windows=False)] == []
    assert [name for name in OUTSIDE + OUTSIDE_ON_WINDOWS if not leads_out(name, windows=True)] == []
    inside = ["a", "a/b.jpg", "..a", "a..b/c", "console", "Zürich/ß", ".hidden"]
    assert [name for name in inside if leads_out(name, windows=False) or leads_out(name, windows=True)] == []
    assert not leads_out("con\\..\\a:b", windows=False)  # a name as good as any there


def test_features_with_names_that_leave_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifacts = make_artifacts(tmp_path / "artifacts")
    for file in ("keypoints.h5", "descriptors.h5", "scores.h5"):
        with h5py.File(artifacts / file, "a") as opened:
            opened["../../evil"] = opened["a"][()]
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "photos" / "a.png")
    photos, out = str(tmp_path / "photos"), str(tmp_path / "deep" / "er" / "out")
    assert main(["export", str(artifacts), photos, "--format", "imw", "--output", out]) == 2
    assert "'../../evil' is no name below a folder" in capsys.readouterr().err
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/passwd", "a\0.jpg"])
def test_data_sets_with_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    scene: dict[str, Any] = {"image_path": ".", "calib_path": ".", "images": ["a", name], "tuples": [[0, 1]]}
    (tmp_path / "dataset.json").write_text(json.dumps({"s": scene}))
    with pytest.raises(DatasetError, match="no file below image_path"):
        SceneSet.load(tmp_path)
    scene |= {"images": ["a", "b"], "calib_path": "\0"}
    (tmp_path / "dataset.json").write_text(json.dumps({"s": scene}))
    with pytest.raises(DatasetError, match="is no folder"):
        SceneSet.load(tmp_path)
    (tmp_path / "dataset.json").write_text("[" * 100_000)
    with pytest.raises(DatasetError, match="not a json file"):
        SceneSet.load(tmp_path)


def test_models_with_names_that_leave_the_folder(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    from disk.datasets.import_colmap import ImportOptions, import_colmap

    make_model(tmp_path / "work", "bin")
    model = pycolmap.Reconstruction(tmp_path / "work")
    for number, name in ((1, "../up.png"), (2, str(tmp_path / "up.png")), (3, "a/../../up.png")):
        model.image(number).name = name
    model.write_binary(tmp_path / "work")
    (tmp_path / "work" / "images").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "up.png")
    with pytest.raises(DatasetError, match=r"not one image .* lies outside the image folder"):
        import_colmap(tmp_path / "work", ImportOptions())


class Code:
    """What a pickle runs when it is opened."""

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
        ("UPDATE keypoints SET rows = 1000000000", "another size"),
        ("UPDATE keypoints SET rows = -1", "another size"),
        ("UPDATE matches SET data = NULL", "another size"),
        ("UPDATE images SET camera_id = 77", "no camera of"),
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
    """A few bytes that say they are 2.5 billion pixels, in each of the formats."""
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


def test_a_hostile_name_is_one_line_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "evil\n\x1b[2J\x9b31m.h5"
    (tmp_path / name).write_text("nothing")
    assert main(["view", str(tmp_path / name), str(tmp_path), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert not set(error.rstrip("\n")) & {*map(chr, range(32)), "\x9b"}


def test_a_pose_list_stays_in_the_folder_of_images(tmp_path: Path) -> None:
    from disk.errors import EvaluationError
    from disk.evaluation.ground_truth import read_pose_pairs

    (tmp_path / "images").mkdir()
    K = "50 0 31.5 0 50 23.5 0 0 1"
    Image.new("RGB", (64, 48)).save(tmp_path / "up.png")
    (tmp_path / "pairs.txt").write_text(f"../up.png ../up.png 0 0 {K} {K} 1 0 0 0 0 1 0 0 0 0 1 1 0 0 0 1\n")
    with pytest.raises(EvaluationError, match=r"pairs\.txt:1: '\.\./up\.png' is no file below"):
        read_pose_pairs(tmp_path / "pairs.txt", tmp_path / "images")


def test_databases_hold_what_is_no_text(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    from disk.colmap.database import open_database

    (tmp_path / "a.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    with pytest.raises(ColmapError, match=r"a\.db"), open_database(tmp_path / "a.db"):
        pass
