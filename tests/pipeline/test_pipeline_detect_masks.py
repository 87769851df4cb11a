"""Masks of a folder of images: the features that a changed mask makes stale, and the messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from disk.cli.main import main
from disk.pipeline.detect import DetectOptions, detect
from disk.pipeline.match import match
from disk.storage.artifacts import MATCHES, read_features, read_matches


def write_mask(path: Path, left: bool) -> None:
    mask = np.zeros((64, 96), np.uint8)
    mask[:, :48] = 255
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(mask if left else 255 - mask).save(path)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_mask_that_changes_makes_its_features_and_their_matches_stale(
    photo_folder: Path, tmp_path: Path, interrupted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, masks = tmp_path / "out", tmp_path / "masks"
    write_mask(masks / "a.png", left=True)
    write_mask(masks / "b.png", left=True)
    options = DetectOptions(n=30, subpixel=False, backend="torch", mask_dir=masks)
    if interrupted:  # finished images are in shards
        with monkeypatch.context() as patch:
            patch.setattr("disk.storage.shards.ShardWriter.finish", lambda writer: writer.flush())
            detect(out, photo_folder, options)
    else:
        detect(out, photo_folder, options)
        match(out)
        assert detect(out, photo_folder, options).detected == 0
        assert (out / MATCHES).is_file()
    write_mask(masks / "a.png", left=False)
    write_mask(masks / "c.png", left=True)  # its size differs from that of c, but it is new, so c is stale as well
    Image.fromarray(np.full((80, 64), 255, np.uint8)).save(masks / "c.png")
    assert detect(out, photo_folder, options).detected == 2
    if not interrupted:
        with read_matches(out) as matches:
            assert matches.pairs() == [("b", "sub/d")]
    with read_features(out) as store:
        assert store.keypoints("a")[:, 0].min() >= 48
        assert store.keypoints("b")[:, 0].max() < 48
    (masks / "a.png").unlink()
    assert detect(out, photo_folder, options).detected == 1
    with read_features(out) as store:
        assert store.keypoints("a")[:, 0].min() < 48


def test_a_missing_mask_is_refused_before_any_work(photo_folder: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "masks").mkdir()
    arguments = ["detect", tmp_path / "out", photo_folder, "--mask-dir", tmp_path / "masks"]
    assert main(list(map(str, arguments))) == 2
    assert "for a.jpg, name it a.jpg.png or a.png" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unused_files_and_missing_masks_are_reported(photo_folder: Path, tmp_path: Path, capsys: Any) -> None:
    (photo_folder / "raw.CR2").write_bytes(b"")
    write_mask(tmp_path / "masks" / "a.jpg.png", left=True)
    write_mask(tmp_path / "masks" / "z.png", left=True)
    Image.new("L", (96, 64)).save(tmp_path / "masks" / "b.png")
    arguments = ["detect", tmp_path / "out", photo_folder, "--mask-dir", tmp_path / "masks", "--n", 9]
    assert main(list(map(str, arguments))) == 0
    said = capsys.readouterr().err
    for line in (
        f"ignoring other files in {photo_folder}: 1 .cr2",
        "for 2 of 4 images (used as a whole)",
        "1 file in",
        "b.png is 0 everywhere: its image has no keypoints",
    ):
        assert line in said
