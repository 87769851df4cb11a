"""Detecting into a folder with earlier results: what is kept, deleted or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from disk.errors import ArtifactError
from disk.pipeline.detect import DetectOptions, detect
from disk.pipeline.match import match
from disk.pipeline.match_options import MatchOptions

QUICK = DetectOptions(n=20, backend="torch")
AGAIN = DetectOptions(n=20, backend="torch", overwrite=True)


def test_overwriting_features_removes_matches_of_them(photo_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    detect(out, photo_folder, QUICK)
    match(out, MatchOptions(device="cpu"))
    (out / ".matches-000000.h5").write_bytes(b"of an interrupted run")
    (out / "inliers.h5").write_bytes(b"")
    detect(out, photo_folder, AGAIN)
    assert not {path.name for path in out.iterdir()} & {"matches.h5", ".matches-000000.h5", "inliers.h5"}
    assert match(out, MatchOptions(device="cpu")).matched == 6


def test_an_image_that_became_a_folder(photo_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    detect(out, photo_folder, QUICK)
    before = (out / "keypoints.h5").read_bytes()
    image = next(photo_folder.glob("a.*"))
    (photo_folder / "a").mkdir()
    image.rename(photo_folder / "a" / f"0{image.suffix}")
    with pytest.raises(ArtifactError, match="cannot store both images 'a' and 'a/0'"):
        detect(out, photo_folder, QUICK)
    assert (out / "keypoints.h5").read_bytes() == before
    assert detect(out, photo_folder, AGAIN).detected == 4
