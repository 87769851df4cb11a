"""The help of every command fits on two screens, is grouped by topic and explains each option."""

import contextlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from tyro.conf import Positional

from disk.cli.app import run
from disk.cli.main import COMMANDS, main
from disk.cli.panels import TOPICS, documentation
from disk.cli.wrapping import wrapped
from disk.errors import DiskError
from disk.model.options import Budget
from disk.options import Options

GROUPS = {
    "dataset": ("import-colmap", "merge", "check", "download", "synthesize"),
    "evaluate": ("pose", "homography", "imw", "reconstruction"),
    "weights": ("list", "fetch", "convert", "export-onnx"),
}
EVERY = [(name, *sub) for name in COMMANDS for sub in ([(one,) for one in GROUPS[name]] if name in GROUPS else [()])]
WIDTH, SCREEN = 100, 54
_seen: dict[tuple[str, ...], str] = {}


def help_of(command: tuple[str, ...], monkeypatch, capsys) -> str:
    if command not in _seen:
        monkeypatch.setenv("COLUMNS", str(WIDTH))
        monkeypatch.setenv("NO_COLOR", "1")
        with pytest.raises(SystemExit) as end:
            main([*command, "--help"])
        assert end.value.code in (0, None)
        _seen[command] = capsys.readouterr().out
    return _seen[command]


@pytest.mark.parametrize("command", EVERY, ids=" ".join)
def test_help_of_every_command(command, monkeypatch, capsys):
    text = help_of(command, monkeypatch, capsys)
    lines = text.splitlines()
    assert lines[0].startswith(f"usage: disk {' '.join(command)}")
    example = next(i for i, line in enumerate(lines) if line.startswith("example:  disk "))
    below = [i for i, line in enumerate(lines) if line.startswith(" ---")]
    assert example < below[0]
    # long lines take several rows; the title of a panel is a separate line only without UTF-8
    assert len(lines) + sum(len(line) // (WIDTH + 1) for line in lines) - len(below) <= 2 * SCREEN
    assert " ".join(command) in lines[example]
    for odd in ("options options", "None}", "PATH PATH", "(default: None)", "(default: False)", "(default: True)"):
        assert odd not in text
    assert "(default: )" not in text
    titles = [lines[i - 1].strip() for i in below]
    assert len(titles) == len(set(titles))
    for start, end in zip(below, [*below[1:], None], strict=True):  # no panel is a long list
        assert sum(line.startswith("  --") for line in lines[start:end]) <= 12


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("command", [*EVERY, (), ("dataset",), ("evaluate",), ("weights",)], ids=" ".join)
def test_help_wraps_at_the_width_of_the_terminal(command, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    with contextlib.suppress(SystemExit):
        main([*command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert max(map(len, lines)) > 0.7 * columns or len(lines) < 20  # wraps where it has to, not before
    if columns == 80:  # whoever copies an example copies one line
        assert not any(re.match(r" {10}(?!disk )\S", line) for line in lines[2:8])


def test_a_pipe_has_80_columns(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    command = [sys.executable, "-m", "disk", "auc", "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout
    assert 70 < max(map(len, printed.splitlines())) <= 80


def test_colours_do_not_count_as_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "12")
    assert wrapped("\x1b[1musage:\x1b[0m disk try") == "usage: disk\n       try"
    assert wrapped("\x1b[1musage:\x1b[0m disk") == "\x1b[1musage:\x1b[0m disk"
    assert wrapped("usage: disk [--a B] [--c D]") == "usage: disk\n       [--a B]\n       [--c D]"
    assert wrapped("  one  two three four") == "  one  two\n       three\n       four"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_no_empty_lines_between_options(encoding):
    """tyro leaves one where a text without a default fills its line."""
    variables = {**os.environ, "COLUMNS": "110", "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "disk", "undistort", "--help"]
    printed = subprocess.run(command, capture_output=True, encoding="utf-8", env=variables, check=True).stdout
    lines = [line.strip("│ ") for line in printed.partition("-h, --help")[2].splitlines()]
    options = [i for i, line in enumerate(lines) if line.startswith("--")]
    assert len(options) == 6
    assert all(lines[: options[-1]])
    assert ("│" in printed) == (encoding == "utf-8")


def test_every_option_of_a_topic_is_one_of_some_command(monkeypatch, capsys):
    text = "".join(help_of(command, monkeypatch, capsys) for command in EVERY)
    flags = set(re.findall(r"^  --([a-z0-9-]+)", text, re.MULTILINE))
    listed = [name for names in TOPICS.values() for name in names]
    assert len(listed) == len(set(listed))
    assert {name.replace("_", "-") for name in listed} <= flags


@dataclass(frozen=True, kw_only=True)
class Many(Budget, Options):
    """More options than fit into one panel."""

    window: int = 5
    """Side of a window."""
    mode: Literal["nms", "rng"] = "nms"
    subpixel: bool = True
    """Between pixels; without,
    at whole ones."""
    overlap: int = 10
    top_k: int | None = 20
    pairs: tuple[str, ...] = ()
    overwrite: bool = False
    pairs_file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Few(Options):
    save: Path | None = None


def command(
    photos: Positional[tuple[Path, ...]], options: Many = Many(), other: Few = Few(), json: bool = False
) -> tuple[object, ...]:
    """Do something."""
    return photos, options, other, json


def test_what_is_in_panels_reaches_the_command_as_one_record():
    def parse(*argv):
        return run(command, list(argv), "try", "disk try")

    assert parse("a") == ((Path("a"),), Many(), Few(), False)
    given = ["a", "b", "--n", "None", "--max-size", "7", "--mode", "rng", "--no-subpixel", "--top-k", "3", "--json"]
    given += ["--pairs", "x", "y", "--overwrite", "--pairs-file", "p.txt", "--save", "s"]
    options = Many(
        n=None, max_size=7, mode="rng", subpixel=False, top_k=3, pairs=("x", "y"), overwrite=True,
        pairs_file=Path("p.txt"),
    )  # fmt: skip
    assert parse(*given) == ((Path("a"), Path("b")), options, Few(save=Path("s")), True)
    assert parse("a", "--subpixel", "--n", "auto")[1] == Many()
    with pytest.raises(DiskError, match="no option '--no-overwrite'; did you mean '--overwrite'"):
        parse("a", "--no-overwrite")


def test_line_breaks_of_a_docstring_are_not_in_the_help(monkeypatch, capsys):
    def broken(photos: Positional[Path]) -> None:
        """Do a thing.

        A paragraph with a break before
        --an-option. Another
        /sentence.

        Args:
            photos: one that goes
                on here, with
                (more).
        """

    monkeypatch.setenv("COLUMNS", str(WIDTH))
    with pytest.raises(SystemExit):
        run(broken, ["--help"], "try", ["disk try", "disk try --other"])
    out = capsys.readouterr().out
    assert "break before --an-option. Another /sentence.\n" in out
    assert "one that goes on here, with (more). (required)" in out
    assert "example:  disk try\n          disk try --other\n" in out


def test_metavars_and_defaults_in_words(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit):
        run(command, ["--help"], "try", "disk try")
    words = " ".join(capsys.readouterr().out.split())
    for said in (
        "disk try [-h] [OPTIONS] PHOTOS ...",
        "--n INT|auto|None Maximum number",
        "--top-k INT|None (default: 20)",
        "--pairs TEXT ... ",
        "--pairs-file PATH ",
        "--mode {nms,rng} (default: nms)",
        "--subpixel, --no-subpixel Between pixels; without, at whole ones. (default: on)",
        " pair options ---", " other options ---",
    ):  # fmt: skip
        assert said in words


def test_documentation_of_fields_is_found_through_inheritance():
    assert documentation(Many)["max_size"].startswith("Shrink images")
    assert documentation(Many)["subpixel"] == "Between pixels; without, at whole ones."
    assert "mode" not in documentation(Many)
