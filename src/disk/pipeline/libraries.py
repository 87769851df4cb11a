"""The libraries that the package uses: which of them can be imported here, and which extras are complete.

A broken library may crash Python, so each is first imported in a separate process.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec

from disk.errors import OPTIONAL
from disk.versions import installed

BASE = {"torch": "torch", "numpy": "numpy", "PIL": "pillow", "safetensors": "safetensors"}  # module -> distribution
# what extras take from others, as in pyproject.toml
_SHARED = {"train": ("poselib",)}  # extra -> modules that are listed with another one in OPTIONAL
_INCLUDED = {
    "sfm": ("cli",),
    "train": ("cli",),
    "eval": ("sfm", "baselines"),
    "all": (
        "cli", "sfm", "video", "train", "eval", "onnx", "gpu", "heic", "lightglue", "ray", "demo", "baselines",
    ),
}  # fmt: skip
_PATIENCE = 120  # seconds for imports

# imports the given modules and reports on each in a line of JSON
_PROBE = """
import importlib, json, sys
say = sys.stdout
sys.stdout = sys.stderr
for name in sys.argv[1:]:
    try:
        module, problem = importlib.import_module(name), None
        number = str(getattr(module, "__version__", "")) or None
    except BaseException as error:
        problem, number = " ".join(f"{type(error).__name__}: {error}".split()), None
    print(json.dumps([name, number, problem]), file=say, flush=True)
"""


@dataclass(frozen=True)
class Library:
    """A library.

    name: of the distribution
    version: None if not installed
    problem: why it cannot be imported; None if it can
    """

    name: str
    version: str | None
    problem: str | None = None

    @property
    def works(self) -> bool:
        """Whether it is installed and can be imported."""
        return self.version is not None and self.problem is None


@dataclass(frozen=True)
class Extra:
    """An extra of the package.

    libraries: those that the extra itself lists
    install: the command to install what is missing; None if complete
    includes: other extras that are part of it
    """

    name: str
    libraries: list[Library]
    install: str | None
    includes: list[str] = field(default_factory=list)


def import_each(modules: Iterable[str]) -> dict[str, Library]:
    """The result of importing each module in a separate process."""
    found: dict[str, Library] = {}
    names = BASE | {module: distribution for module, (distribution, _) in OPTIONAL.items()}
    left = []
    for module in modules:
        if find_spec(module) is None:
            found[module] = Library(names[module], None)
        else:
            left.append(module)
    while left:
        command = [sys.executable, "-c", _PROBE, *left]
        environment = {**os.environ, "ORT_DISABLE_TELEMETRY": os.environ.get("ORT_DISABLE_TELEMETRY", "1")}
        try:
            done = subprocess.run(
                command, capture_output=True, encoding="utf-8", errors="replace", env=environment, timeout=_PATIENCE
            )
            said, end = done.stdout, f"importing it ends the process with exit code {done.returncode}"
        except subprocess.TimeoutExpired as error:
            output = error.stdout or b""
            said = output.decode(errors="replace") if isinstance(output, bytes) else output
            end = f"importing it takes more than {_PATIENCE} s"
        for line in said.splitlines():
            with contextlib.suppress(ValueError):
                module, number, problem = json.loads(line)
                found[module] = Library(names[module], installed(names[module]) or number or "?", problem)
        left = [module for module in left if module not in found]
        if left:  # the first of them crashed the process
            found[left[0]] = Library(names[left[0]], installed(names[left[0]]) or "?", end)
            left = left[1:]
    return found


def extras_of(found: dict[str, Library]) -> list[Extra]:
    """All extras for users; those that only combine others come last. `dev` and `docs` are for work on the package."""
    members: dict[str, list[Library]] = {}
    for module, (_, extra) in OPTIONAL.items():
        members.setdefault(extra, []).append(found[module])
    members = dict(sorted(members.items()))
    for extra, modules in _SHARED.items():
        members.setdefault(extra, []).extend(found[module] for module in modules if module in found)
    extras: dict[str, Extra] = {}
    for name in (*(name for name in members if name not in _INCLUDED), *_INCLUDED):
        some, includes = members.get(name, []), [part for part in _INCLUDED.get(name, ()) if part in extras]
        complete = all(library.works for library in some) and not any(extras[part].install for part in includes)
        extras[name] = Extra(name, some, None if complete else f"pip install 'disk-features[{name}]'", includes)
    return list(extras.values())
