"""The command itself: help, exit codes, one line for a mistake."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from disk.cli.main import COMMANDS, main


def test_an_interruption_while_a_command_is_imported(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("disk.cli.main.importlib", SimpleNamespace(import_module=interrupted))
    assert main(["demo"]) == 130
    assert main(["detect", "artifacts", "photos"]) == 130
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["disk demo: interrupted", "disk detect: interrupted; run the same command again to resume"]


@pytest.mark.parametrize("arguments", ["--help", "weights list", "auc --help"])
def test_a_reader_that_has_seen_enough_is_no_error(arguments):
    code = f"import sys; from disk.cli.main import main; sys.exit(main({arguments.split()}))"
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name}" in out for name in COMMANDS)
    assert "example:" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself_with_an_example(capsys, name):
    try:
        code = main([name, "--help"])
    except SystemExit as exit_:
        code = exit_.code
    assert code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: disk {name}")
    assert "example:" in out or "COMMAND" in out


def test_mistakes_are_one_line_and_exit_2(capsys, tmp_path):
    assert main([]) == 2
    assert main(["bogus"]) == 2
    assert main(["weights", "bogus"]) == main(["evaluate", "bogus"]) == main(["dataset", "bogus"]) == 2
    assert main(["evaluate"]) == 2
    capsys.readouterr()
    assert main(["weights", "convert", str(tmp_path / "none.pth"), "x.pth"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "none.pth" in err


def test_quiet_is_taken_anywhere(capsys):
    assert main(["weights", "list", "--quiet"]) == 0
    assert "default" in capsys.readouterr().out


def test_importing_the_package_loads_no_heavy_library():
    code = (
        "import sys, disk, disk.cli.main; print([m for m in ('torch', 'pycolmap', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_mistyped_commands_and_flags_get_a_hint(capsys):
    assert main(["recontruct", "photos", "model"]) == 2
    assert capsys.readouterr().err.endswith("did you mean 'reconstruct'?\n")
    assert main(["dataset", "imprt"]) == main(["evaluate", "poes"]) == main(["--versoin"]) == 2
    assert [line.partition("; did")[2] for line in capsys.readouterr().err.splitlines()] == [
        " you mean 'import-colmap'?", " you mean 'pose'?", " you mean '--version'?",
    ]  # fmt: skip


def test_sigterm_ends_a_command_like_ctrl_c(monkeypatch, capsys):
    """Even if pycolmap, which treats it as a crash, was imported on the way."""
    before = signal.getsignal(signal.SIGTERM)

    class Command:
        @staticmethod
        def main(argv):
            code = "import disk.colmap, signal; signal.raise_signal(signal.SIGTERM)"
            exec(code)

    # not globally: the import hook of the tests needs the real one
    monkeypatch.setattr("disk.cli.main.importlib", SimpleNamespace(import_module=lambda name: Command))
    assert main(["verify", "artifacts"]) == 143
    assert capsys.readouterr().err == "disk verify: terminated; run the same command again to resume\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_pycolmap_does_not_keep_sigterm():
    code = "import os, signal, disk.colmap; os.kill(os.getpid(), signal.SIGTERM)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGTERM
    assert done.stderr == ""
