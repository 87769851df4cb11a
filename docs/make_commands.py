"""Writes docs/commands.md from each command's own help: python docs/make_commands.py"""

import os
import subprocess
import sys
from pathlib import Path

GROUPS = {
    "dataset": ["import-colmap", "merge", "check", "download", "synthesize"],
    "evaluate": ["pose", "homography", "imw", "reconstruction"],
    "weights": ["list", "fetch", "convert", "export-onnx"],
}
COMMANDS = [
    "reconstruct",
    "detect",
    "match",
    "view",
    "export",
    "verify",
    "map",
    "triangulate",
    "localize",
    "undistort",
    "demo",
    "train",
    "auc",
    *GROUPS,
]


def help_of(command: list[str]) -> str:
    environment = {**os.environ, "COLUMNS": "110", "NO_COLOR": "1"}
    run = [sys.executable, "-m", "disk", *command, "--help"]
    return subprocess.run(run, capture_output=True, text=True, check=True, env=environment).stdout.rstrip()


def main() -> None:
    parts = ["# Commands", "", "Written by `python docs/make_commands.py` from `disk COMMAND --help`."]
    for command in COMMANDS:
        for words in [[command, sub] for sub in GROUPS.get(command, [])] or [[command]]:
            parts += ["", f"## disk {' '.join(words)}", "", "```text", help_of(words), "```"]
    Path(__file__).with_name("commands.md").write_text("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
