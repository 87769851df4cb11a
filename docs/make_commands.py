"""Writes docs/commands/ from the help of each command.

python docs/make_commands.py; with --check it writes nothing and fails where the pages are stale.
"""

import contextlib
import importlib
import io
import os
import sys
from pathlib import Path

# before rich, which tyro prints with, looks at them
os.environ.update(COLUMNS="110", NO_COLOR="1")

from disk.cli.main import COMMANDS
from disk.cli.main import main as disk

FOLDER = Path(__file__).with_name("commands")


def help_of(*words: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        disk([*words, "--help"])
    return "\n".join(line.rstrip() for line in printed.getvalue().rstrip().splitlines())


def pages() -> dict[str, str]:
    """{file name: text}, a page for each command, for those of a group as well."""
    written = {}
    index = ["# Commands", "", "Each page is what `disk COMMAND --help` prints.", "", "```text", help_of(), "```", ""]
    for name, (module, what) in COMMANDS.items():
        group = getattr(importlib.import_module(f"disk.cli.{module}"), "COMMANDS", None)
        links = []
        for words in [[name, sub] for sub in group] if group else [[name]]:
            file = f"{'-'.join(words)}.md"
            title = f"disk {' '.join(words)}"
            written[file] = f"# {title}\n\n```text\n{help_of(*words)}\n```\n"
            links.append(f"[{title}]({file})")
        index.append(f"- {', '.join(links)}: {what}")
    written["index.md"] = "\n".join(index) + "\n"
    return written


def main() -> None:
    new = pages()
    old = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    if "--check" in sys.argv:
        stale = sorted(name for name in {*new, *old} if new.get(name) != old.get(name))
        if stale:
            sys.exit(f"docs/commands/ is stale ({', '.join(stale)}); run: python docs/make_commands.py")
        return
    FOLDER.mkdir(exist_ok=True)
    for name in {*old} - {*new}:
        (FOLDER / name).unlink()
    for name, text in new.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
