"""disk reconstruct: mistakes end in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from disk.cli.main import main
from disk.errors import ColmapError
from disk.pipeline.reconstruct import read_summary


def test_mistakes_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, out = tmp_path / "photos", str(tmp_path / "out")
    assert main(["reconstruct", str(photos), out]) == 2
    assert "does not exist" in capsys.readouterr().err
    photos.mkdir()
    assert main(["reconstruct", str(photos), out]) == 2
    assert "holds no" in capsys.readouterr().err
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 64)).save(photos / name)
    assert main(["reconstruct", str(photos), out, "--camera-model", "box"]) == 2
    assert "choose from" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["reconstruct", str(photos), str(tmp_path / "file")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_single_photo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One photo makes no model; the error comes before any work."""
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "photos" / "a.png")
    assert main(["reconstruct", str(tmp_path / "photos"), str(tmp_path / "out")]) == 2
    assert "a model needs at least two" in capsys.readouterr().err.splitlines()[-1]


def test_no_summary_yet(tmp_path: Path) -> None:
    with pytest.raises(ColmapError, match="run `disk reconstruct` first"):
        read_summary(tmp_path)
    (tmp_path / "summary.json").write_text('{"songs": 3}')
    with pytest.raises(ColmapError, match="was not written by"):
        read_summary(tmp_path)
