"""Users' mistakes and disk errors: one clear line, the right exit code, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import disk.pipeline.batches as batches
import disk.pipeline.detect as stage
import disk.pipeline.loading as loading
from disk.cli.main import main
from disk.model.engine import StripEngine
from disk.storage import shards
from disk.storage.artifacts import read_features


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, list[str]]:
    """Exit code and the lines on stderr of `disk detect ... --quiet`; never a traceback."""
    capsys.readouterr()
    code = main(["detect", *map(str, arguments), "--backend", "torch", "--device", "cpu", "--n", "20", "--quiet"])
    lines = capsys.readouterr().err.splitlines()
    assert not any("Traceback" in line for line in lines)
    return code, lines


def refuses(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one line of a run that exits with 2."""
    code, lines = run(capsys, *arguments)
    assert code == 2
    assert len(lines) == 1, lines
    return lines[0]


def test_paths_that_are_not_folders(tmp_path: Path, capsys: Any) -> None:
    assert "missing does not exist" in refuses(capsys, tmp_path / "out", tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    assert "empty holds no images" in refuses(capsys, tmp_path / "out", tmp_path / "empty")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("text")
    assert "text holds 1 other file (1 .txt), but no images" in refuses(capsys, tmp_path / "out", tmp_path / "text")
    (tmp_path / "text" / "a.jpg").write_text("text")
    code, lines = run(capsys, tmp_path / "out2", tmp_path / "text")
    assert code == 2
    assert lines[0].startswith("disk detect: none of the images could be read (1); the first: ")
    assert "a.jpg is not an image" in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_extreme_and_blank_images(tmp_path: Path, capsys: Any, backend: str) -> None:
    photos = tmp_path / "in"
    photos.mkdir()
    sizes = {"pixel": (1, 1), "wide": (15, 4000), "tall": (4000, 15), "blank": (48, 64), "row": (1, 100)}
    rng = np.random.default_rng(0)
    for name, (height, width) in sizes.items():
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(0 * image if name == "blank" else image).save(photos / f"{name}.png")
    code = main(
        ["detect", str(tmp_path / "out"), str(photos), "--max-size", "0", "--device", "cpu", "--backend", backend]
    )
    assert code == 0
    with read_features(tmp_path / "out") as store:
        assert store.names == sorted(sizes)
        for name, (height, width) in sizes.items():
            features = store[name]
            x, y = features.keypoints.unbind(1)
            assert ((x >= 0) & (x < width) & (y >= 0) & (y < height)).all()
            assert features.descriptors.isfinite().all()
            assert len(features) == len(features.descriptors) == len(features.scores)
            assert store.image_size(name) == (width, height)
        assert len(store["wide"]) > 100
        assert len(store["pixel"]) <= 1
    code = main(["detect", str(tmp_path / "small"), str(photos), "--device", "cpu", "--backend", backend])
    assert code == 0
    capsys.readouterr()


def test_an_image_without_keypoints_is_stored_as_empty(photo_folder: Path, tmp_path: Path, capsys: Any) -> None:
    """A network that finds nothing, so that the test does not depend on the weights."""
    from disk.model.checkpoints import load, save

    model = load()
    with torch.no_grad():
        model.unet.path_up[-1].conv[-1].weight[128:] = 0
        model.unet.path_up[-1].conv[-1].bias[128:] = -1
    save(model, tmp_path / "nothing.safetensors")
    for out, options in (("nms", []), ("batch", ["--batch-size", 2]), ("half", ["--f16"])):
        code, lines = run(
            capsys, tmp_path / out, photo_folder, "--model-path", tmp_path / "nothing.safetensors", *options
        )
        assert (code, lines) == (0, [])
        with read_features(tmp_path / out) as store:
            assert len(store) == 4
            for name in store:
                assert store[name].keypoints.shape == (0, 2)
                assert store[name].descriptors.shape == (0, 128)
                assert store[name].scores.shape == (0,)


def test_a_truncated_image_is_named_and_the_others_are_detected(
    photo_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    whole = (photo_folder / "c.jpg").read_bytes()
    (photo_folder / "c.jpg").write_bytes(whole[: len(whole) // 2])
    code, lines = run(capsys, tmp_path / "out", photo_folder)
    assert code == 1
    assert lines[-1] == "disk detect: 1 of 4 images could not be read: c.jpg; the rest is done"
    assert len(lines) == 2
    assert "c.jpg is damaged: image file is truncated" in lines[0]
    with read_features(tmp_path / "out") as store:
        assert store.names == ["a", "b", "sub/d"]
    assert main(["detect", str(tmp_path / "out"), str(photo_folder), "--n", "20", "--backend", "torch", "--json"]) == 1
    assert list(json.loads(capsys.readouterr().out)["failed"]) == ["c.jpg"]
    assert run(capsys, tmp_path / "out", photo_folder, "--keep-going")[0] == 0
    (photo_folder / "c.jpg").write_bytes(whole)
    assert run(capsys, tmp_path / "out", photo_folder) == (0, [])
    with read_features(tmp_path / "out") as store:
        assert store.names == ["a", "b", "c", "sub/d"]


def test_a_folder_of_truncated_images(photo_folder: Path, tmp_path: Path, capsys: Any) -> None:
    for file in photo_folder.rglob("*.*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    arguments = [str(tmp_path / "out"), str(photo_folder), "--backend", "torch", "--device", "cpu"]
    assert main(["detect", *arguments]) == 2
    printed = capsys.readouterr().err
    assert "4 images: none detected in this run; in" in printed
    assert "none of the images could be used (4); the first: " in printed.splitlines()[-1]


def test_a_decompression_bomb_is_named_and_the_others_are_detected(
    photo_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b"")]
    png = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    (photo_folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    code, lines = run(capsys, tmp_path / "out", photo_folder)
    assert code == 1
    assert "bomb.png would decode to more than 500 million pixels" in lines[0]
    assert "bomb.png; the rest is done" in lines[1]
    assert len(lines) == 2


def test_names_that_clash(photo_folder: Path, tmp_path: Path, capsys: Any) -> None:
    (photo_folder / "a.png").write_bytes((photo_folder / "b.PNG").read_bytes())
    line = refuses(capsys, tmp_path / "out", photo_folder)
    assert "a.jpg" in line
    assert "a.png" in line


def test_a_mask_of_another_size(photo_folder: Path, tmp_path: Path, capsys: Any) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(masks / "a.jpg.png")
    (masks / "b.PNG.png").write_text("no image")
    code, lines = run(capsys, tmp_path / "out", photo_folder, "--mask-dir", masks)
    assert code == 1
    assert lines[0].startswith("no mask in")
    assert lines[0].endswith("for 2 of 4 images (used as a whole): c.jpg, sub/d.jpg")
    assert "a.jpg.png is 7 x 5, its image 96 x 64" in lines[1]
    assert "b.PNG.png is not an image" in lines[2]
    assert "2 of 4 images could not be read: a.jpg, b.PNG" in lines[3]


def test_output_that_cannot_be_written(photo_folder: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write in" in refuses(capsys, tmp_path / "file", photo_folder)
    assert "cannot write in" in refuses(capsys, tmp_path / "file" / "below", photo_folder)
    (tmp_path / "locked").mkdir(mode=0o555)
    if os.geteuid() != 0:  # root may write anywhere
        assert "Permission denied" in refuses(capsys, tmp_path / "locked", photo_folder)


def test_a_full_disk(photo_folder: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """The disk fills up at the third write, then has space again: nothing is lost, nothing is wrong."""
    monkeypatch.setattr(stage, "SHARD_BYTES", 1)
    real, calls = os.fsync, 0

    def fill(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= 7:  # the record of the photos and each shard sync the file and the folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(shards.os, "fsync", fill)
        line = refuses(capsys, tmp_path / "out", photo_folder)
    assert "No space left on device; complete results are kept" in line
    kept = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert kept == [".features-000000.h5", ".features-000001.h5", ".lock", "photos.json"]
    read = []
    load_image = loading.read_upright
    monkeypatch.setattr(loading, "read_upright", lambda path: read.append(path.name) or load_image(path))
    assert run(capsys, tmp_path / "out", photo_folder) == (0, [])
    assert sorted(read) == ["c.jpg", "d.jpg"]
    assert run(capsys, tmp_path / "undisturbed", photo_folder) == (0, [])
    with read_features(tmp_path / "out") as store, read_features(tmp_path / "undisturbed") as expected:
        assert store.names == expected.names
        for name in store:
            assert torch.equal(store[name].keypoints, expected[name].keypoints)
            assert torch.equal(store[name].descriptors, expected[name].descriptors)


def test_hdf5_of_another_program(photo_folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with h5py.File(out / "keypoints.h5", "w") as file:
        file["a"] = np.zeros((3, 2))
    before = (out / "keypoints.h5").read_bytes()
    assert "keypoints.h5 was not written by this command" in refuses(capsys, out, photo_folder)
    assert (out / "keypoints.h5").read_bytes() == before
    (out / "keypoints.h5").write_bytes(b"not HDF5 at all")
    assert "keypoints.h5 cannot be read as HDF5" in refuses(capsys, out, photo_folder)
    assert run(capsys, out, photo_folder, "--overwrite") == (0, [])


def test_files_that_are_not_checkpoints(photo_folder: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "text.pth").write_text("text")
    torch.save({"extractor": {"weight": torch.zeros(3)}}, tmp_path / "other.pth")
    torch.save({"extractor": Path("a class of its own")}, tmp_path / "pickle.pth")
    for name in ("missing.pth", "text.pth", "other.pth", "pickle.pth"):
        line = refuses(capsys, tmp_path / "out", photo_folder, "--model-path", tmp_path / name)
        assert name in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory. Tried"), RuntimeError("can't allocate memory: you")]
)
def test_too_large_for_the_memory(
    photo_folder: Path, tmp_path: Path, capsys: Any, monkeypatch: Any, threads: Any, error: Exception, cores: int
) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    threads(cores)
    monkeypatch.setattr(StripEngine, "_detect", fail)
    line = refuses(capsys, tmp_path / "out", photo_folder)
    assert f"a.jpg (96 x 64, in a batch of {cores}) does not fit into memory; use a smaller --max-size" in line


def test_an_interruption_keeps_finished_images(
    photo_folder: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    real, calls = batches._start, 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(batches, "_start", interrupted)
        code, lines = run(capsys, tmp_path / "out", photo_folder)
    assert code == 130
    assert lines == ["disk detect: interrupted; run the same command again to resume"]
    read = []
    load_image = loading.read_upright
    monkeypatch.setattr(loading, "read_upright", lambda path: read.append(path.name) or load_image(path))
    assert run(capsys, tmp_path / "out", photo_folder) == (0, [])
    assert sorted(read) == ["c.jpg", "d.jpg"]


def test_a_broken_link_is_named_and_the_others_are_detected(tmp_path: Path, capsys: Any) -> None:
    photos = tmp_path / "in"
    photos.mkdir()
    Image.new("RGB", (64, 48)).save(photos / "a.png")
    (photos / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    for _ in range(2):
        code, lines = run(capsys, tmp_path / "out", photos)
        assert code == 1
        assert lines[-1] == "disk detect: 1 of 2 images could not be read: gone.jpg; the rest is done"
    with read_features(tmp_path / "out") as features:
        assert features.names == ["a"]
