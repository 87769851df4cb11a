"""Shared by all commands: parsing arguments into the parameters of a function."""

from __future__ import annotations

import inspect
import io
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

import tyro

from disk.cli.mistakes import first_mistake
from disk.cli.panels import arranged
from disk.cli.wrapping import wrapped, wrapped_output
from disk.errors import DiskError, PartialFailureError
from disk.storage.names import did_you_mean

Result = TypeVar("Result")

# `json: AsJson = False` gives a command --json; with it the command prints its summary by `print_json` and nothing else
AsJson = Annotated[bool, tyro.conf.arg(help="Print the summary as JSON, for scripts.")]

# flags for the fields of a dataclass have no prefix
_CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)


def run(
    command: Callable[..., Any],
    argv: list[str],
    name: str,
    example: str | Sequence[str],
    switches_both_ways: bool = False,
) -> Any:
    """Call `command` with parameters parsed from argv; its docstring and the example become the help.

    argv: arguments after the command
    name: of the command
    example: one command, or several, of at most 70 characters
    switches_both_ways: give every switch a --no- twin

    Raises DiskError for wrong arguments.
    """
    call, arguments = arranged(command, switches_both_ways)
    if any(not token or (token.startswith("--") and token.endswith("=")) for token in argv):
        _refuse(first_mistake(arguments, argv), name)  # tyro takes an empty path for the current folder
    summary = inspect.cleandoc(command.__doc__ or "").split("\nArgs:")[0].strip()
    # tyro would keep a line break before a word that does not begin with a letter, such as an option
    summary = re.sub(r"(?<=\S)\n(?=\S)", " ", summary)
    examples = example if isinstance(example, str) else "\n          ".join(example)
    description = f"example:  {examples}\n\n{summary}"
    complaint = io.StringIO()
    try:
        with wrapped_output(), redirect_stderr(complaint):
            bound = tyro.cli(call, args=argv, prog=f"disk {name}", description=description, config=_CONFIG)
    except SystemExit as end:
        if not end.code:
            raise
        _refuse(first_mistake(arguments, argv) or " ".join(re.findall(r"[^\s─│╭╮╰╯]+", complaint.getvalue())), name)
        raise
    return bound()


def _refuse(mistake: str | None, name: str) -> None:
    if mistake is not None:
        raise DiskError(f"{mistake} (see disk {name} --help)")


def run_group(
    commands: Mapping[str, tuple[Callable[..., Any], str]], argv: list[str], name: str, description: str
) -> Any:
    """Run one command of a group such as `disk dataset`: {subcommand: (function, example)}."""
    if argv and argv[0] not in (*commands, "-h", "--help"):
        hint = did_you_mean(argv[0].lower(), (*commands, "--help"))
        print(f"disk {name}: no command {argv[0]!r}; choose from {', '.join(commands)}{hint}", file=sys.stderr)
        return 2
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, commands))
        lines = [f"usage: disk {name} COMMAND ...", "", description, ""]
        for key, (function, _) in commands.items():
            lines.append(f"  {key:<{width}}  {(function.__doc__ or '').strip().splitlines()[0]}")
        print(wrapped("\n".join(lines)))
        return 0 if argv else 2
    function, example = commands[argv[0]]
    return run(function, argv[1:], f"{name} {argv[0]}", example)


def show_result(stage: Callable[[], Result], show: Callable[[Result], None], json: bool) -> None:
    """Run a stage and print its result, also of a stage that fails for some of its inputs, before the error."""
    failed: PartialFailureError | None = None
    try:
        result = stage()
    except PartialFailureError as error:
        failed, result = error, error.result
    if json:
        print_json(result)
    else:
        show(result)
    if failed is not None:
        raise failed


def print_json(summary: Any) -> None:
    """Print the summary of a stage, a dataclass or a dict, as one JSON object.

    Fields with the same name have the same meaning in all stages: `failed` {path: reason}: images that could not be
    used; `stale`: items processed again or dropped because their input changed; `unused`: options or files that had no
    effect; `rotated` {path: degrees}: images that were rotated; `watermarks`: pairs with only a watermark in common.
    """
    print(json.dumps(summary if isinstance(summary, dict) else asdict(summary), indent=2))
