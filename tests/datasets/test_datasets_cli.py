"""`disk dataset` on the command line: exit codes and output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from disk.cli.main import main
from disk.datasets.scenes import SceneSet


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "--help"]) == 0
    printed = capsys.readouterr().out
    for command in ("import-colmap", "merge", "check", "download", "synthesize"):
        assert command in printed
    assert main(["dataset"]) == 2
    assert main(["dataset", "nothing"]) == 2


def test_merge_and_check(maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [type(maker)(tmp_path / part).scene().write() for part in ("one", "two")]
    out = tmp_path / "data/train/dataset.json"
    assert main(["dataset", "merge", *map(str, sources), "--out", str(out), "--relative"]) == 0
    assert "2 scenes, 4 tuples" in capsys.readouterr().out
    assert [scene.name for scene in SceneSet.load(out).scenes] == ["here", "here-2"]
    assert main(["dataset", "check", str(tmp_path / "data")]) == 0
    (tmp_path / "one/here/images/a.jpg").unlink()
    assert main(["dataset", "check", str(out)]) == 1
    printed = capsys.readouterr()
    assert "here: no file" in printed.out
    assert printed.err.splitlines()[-1].startswith(f"disk dataset check: {out}: 1 problem,")


def test_synthesized_data_passes_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (160, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photos / "noise.png")
    size = ["--height", "64", "--width", "64", "--scenes", "2"]
    assert main(["dataset", "synthesize", str(photos), str(out), *size]) == 0
    assert main(["dataset", "check", str(out)]) == 0, capsys.readouterr().out
    assert SceneSet.load(out).tuple_size == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "nowhere"],
        ["merge", "nowhere.json"],
        ["import-colmap", "nowhere"],
        ["download", "out", "--list", "--url", "http://127.0.0.1:1"],
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["dataset", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(("disk dataset: no command", f"disk dataset {arguments[0]}: "))
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
