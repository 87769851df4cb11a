"""Mutation testing: how many small faults in a room's code its own tests notice. See docs/testing.md.

    python tests/mutants.py [--rooms ROOM ...] [--each N] [--again]

The faults are those of cosmic-ray. Each is tried in a copy of the project, in a process forked from one that has the
heavy libraries in memory, with the tests of the room that run the faulty line, fastest first, until one fails.
"""

from __future__ import annotations

import interpreted  # isort: skip  # noqa: F401  # before anything imports triton

import argparse
import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import coverage
import pytest

from faults import PROJECT, ROOMS, Mutant, faulty_source, modules, mutants_of

WORK = PROJECT / "build" / "mutants"
EQUIVALENT = Path(__file__).with_name("mutants_equivalent.json")
ENOUGH = 0.9  # of the mutants of a room
# what the tests import, except the package itself, which is imported again for each mutant
PRELOADED = [
    "numpy", "scipy.spatial", "scipy.optimize", "PIL.Image", "h5py", "hypothesis", "jaxtyping", "beartype", "triton",
    "kornia.feature", "poselib", "cv2", "pycolmap", "matplotlib.figure", "rich.table", "tyro", "tensorboard",
    "torch.utils.checkpoint", "torch.distributed", "onnxruntime",
]  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """A room's tests: the seconds each takes and, by file and line, which tests run the line."""

    seconds: dict[str, float]
    lines: dict[str, dict[int, list[str]]]

    def tests(self, module: str, line: int) -> list[str]:
        """The tests that run the statement on a line, fastest first; for import-time code, all tests of those files."""
        runs = self.lines.get(module, {})
        around, compiled = range(line, line + 1), False
        for node in ast.walk(ast.parse((PROJECT / module).read_text())):
            if isinstance(node, ast.stmt) and node.lineno <= line <= node.end_lineno:
                # Triton runs a copy of a kernel, so coverage does not see its lines
                compiled |= any("jit" in ast.unparse(each) for each in getattr(node, "decorator_list", []))
                body = getattr(node, "body", None)
                end = body[0].lineno if body else node.end_lineno + 1
                if line < max(end, node.lineno + 1):
                    around = range(node.lineno, max(end, node.lineno + 1))
        names = {test for number in around for test in runs.get(number, [])}
        if names == {""} or compiled:
            names = {f"{test.split('::')[0]}::*" for tests in runs.values() for test in tests if test}
        files = {name.removesuffix("::*") for name in names if name.endswith("::*")}
        chosen = {test for test in self.seconds if test in names or test.split("::")[0] in files}
        return sorted(chosen, key=lambda test: self.seconds[test])


class _Watch:
    """A pytest plugin that records the time of each test, the lines it runs, and which one failed."""

    def __init__(self, measuring: coverage.Coverage | None = None) -> None:
        self.seconds: Counter[str] = Counter()
        self.failed = ""
        self._coverage = measuring

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if self._coverage:  # a fixture may belong to all tests of a file
            self._coverage.switch_context(f"{item.nodeid.split('::')[0]}::*")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        if self._coverage:
            self._coverage.switch_context(item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed = report.nodeid


def measure(room: str, tree: Path) -> Measured:
    """Run a room's tests without faults. Exits if they fail."""
    target = WORK / f"{room}.json"

    def run() -> int:
        files = [str(tree / file.relative_to(PROJECT)) for file in modules(room)]
        measuring = coverage.Coverage(data_file=None, include=files, config_file=False)
        watch = _Watch(measuring)
        names = (f"tests/{room}/test_{room}_{name}.py" for name in ROOMS[room].tests)
        tests = [str(file.relative_to(tree)) for name in names for file in tree.glob(name)]
        with measuring.collect():
            code = pytest.main(["-q", "-p", "no:cov", *sorted(tests)], plugins=[watch])
        data = measuring.get_data()
        lines = {str(Path(f).relative_to(tree)): data.contexts_by_lineno(f) for f in data.measured_files()}
        target.write_text(json.dumps({"seconds": watch.seconds, "lines": lines}))
        return int(code)

    _, status = os.waitpid(_forked(tree, run), 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"the tests of {room} fail as they are: {tree / 'log'}")
    found = json.loads(target.read_text())
    return Measured(
        found["seconds"], {f: {int(n): tests for n, tests in lines.items()} for f, lines in found["lines"].items()}
    )


def _forked(tree: Path, function: Any) -> int:
    """Run a function in a forked process that imports the package from a tree; returns the process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 3
    with suppress(BaseException):
        os.setsid()
        os.chdir(tree)
        log = os.open(tree / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["PYTHONPATH"] = str(tree / "src")
        sys.path[:0] = [str(tree / "src")]
        code = function()
    os._exit(code)


def start(mutant: Mutant, tests: list[str], tree: Path, number: int) -> int:
    """Try a mutant in a tree; returns the process, whose exit code is 0 if the mutant survives."""
    file = tree / mutant.module
    file.write_text(faulty_source(mutant))
    os.utime(file, (number, number))  # Python tells compiled files apart by seconds and size

    def run() -> int:
        watch = _Watch()
        code = pytest.main(["-x", "-q", "--tb=short", "-p", "no:cov", *tests], plugins=[watch])
        (tree / "failed").write_text(watch.failed)
        return int(code)

    (tree / "failed").unlink(missing_ok=True)
    return _forked(tree, run)


def try_all(todo: list[Mutant], measured: dict[str, Measured], trees: list[Path]) -> Iterator[Mutant]:
    """Try mutants, as many at a time as there are trees."""
    running: dict[int, tuple[Mutant, Path, float]] = {}
    free, numbers = list(trees), iter(range(1, len(todo) + 1))
    todo = todo[::-1]
    while todo or running:
        while todo and free:
            mutant = todo.pop()
            tests = measured[mutant.room].tests(mutant.module, mutant.line)
            if not tests:
                yield replace(mutant, outcome="not run")
                continue
            tree = free.pop()
            limit = 30 + 5 * sum(measured[mutant.room].seconds[test] for test in tests)
            running[start(mutant, tests, tree, next(numbers))] = mutant, tree, time.monotonic() + limit
        time.sleep(0.02)
        for pid, (mutant, tree, deadline) in list(running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            late = not done and time.monotonic() > deadline
            if late:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            if not done and not late:
                continue
            del running[pid]
            with suppress(ProcessLookupError):  # processes that the tests started
                os.killpg(pid, signal.SIGKILL)
            shutil.copy2(PROJECT / mutant.module, tree / mutant.module)
            free.append(tree)
            outcome = "time-out" if late else "killed" if os.waitstatus_to_exitcode(status) else "survived"
            by = (tree / "failed").read_text() if (tree / "failed").exists() else ""
            yield replace(mutant, outcome=outcome, by=by)


def _copy(tree: Path) -> Path:
    """A copy of the project as it is now."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=PROJECT, check=True, capture_output=True, text=True).stdout.split("\0")
    shutil.rmtree(tree, ignore_errors=True)
    for name in filter(None, names):
        if (PROJECT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, tree / name)
    return tree


def print_score(tried: list[Mutant]) -> bool:
    """Print a line for each room and module, and the survivors; returns whether enough were killed in each room."""
    known = {
        key
        for group in json.loads(EQUIVALENT.read_text())
        for module, before, *afters in group["mutants"]
        for key in [(module, before, after) for after in afters or [""]]
    }

    def is_equivalent(mutant: Mutant) -> bool:
        noticed = mutant.outcome in ("killed", "time-out")
        return not noticed and (mutant.key in known or (mutant.module, mutant.before, "") in known)

    tried = [mutant for mutant in tried if mutant.outcome != "untried"]  # untried: left by a stopped run
    print(f"\n{'':44}{'mutants':>9}{'killed':>9}{'time-out':>9}{'equiv.':>9}{'survived':>9}{'score':>8}")
    enough = True
    for room in dict.fromkeys(mutant.room for mutant in tried):
        of_room = [mutant for mutant in tried if mutant.room == room]
        for name in ["", *dict.fromkeys(mutant.module for mutant in of_room)]:
            some = [mutant for mutant in of_room if name in ("", mutant.module)]
            counts = Counter(mutant.outcome for mutant in some)
            noticed = counts["killed"] + counts["time-out"]
            same = sum(map(is_equivalent, some))
            score = noticed / max(len(some) - same, 1)
            numbers = len(some), counts["killed"], counts["time-out"], same, len(some) - same - noticed
            print(
                f"{name.removeprefix('src/disk/') or room.upper():44}{''.join(f'{n:9}' for n in numbers)}{score:8.1%}"
            )
            enough = enough and (name != "" or score >= ENOUGH)
    for m in tried:
        if m.outcome in ("survived", "not run") and not is_equivalent(m):
            print(f"{m.module}:{m.line} {m.outcome}, {m.operator}\n    - {m.before}\n    + {m.after}")
    return enough


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    parser.add_argument("--each", type=int, help="mutants of a module, at most")
    parser.add_argument("--again", action="store_true", help="only those that were not killed the last time")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    WORK.mkdir(parents=True, exist_ok=True)
    trees = [_copy(WORK / f"{arguments.rooms[0]}-{number}") for number in range(arguments.processes)]
    for name in PRELOADED:
        with suppress(ImportError):
            import_module(name)
    for room in arguments.rooms:
        results = WORK / f"{room}-results.json"
        last = {m.key: m for m in (Mutant(**m) for m in json.loads(results.read_text()))} if results.exists() else {}
        tried = {m.key: m for file in modules(room) for m in mutants_of(room, file, arguments.each or ROOMS[room].each)}
        tried = {key: replace(m, outcome=last[key].outcome, by=last[key].by) if arguments.again and key in last else m
                 for key, m in tried.items()}  # fmt: skip
        todo = [m for m in tried.values() if m.outcome not in ("killed", "time-out")]
        print(f"{room}: {len(todo)} of {len(tried)} mutants to try", flush=True)
        measured = {room: measure(room, trees[0])}
        for number, mutant in enumerate(try_all(todo, measured, trees), 1):
            tried[mutant.key] = mutant
            results.write_text(json.dumps([asdict(m) for m in tried.values()], indent=1))
            print(f"{number:5} {mutant.outcome:9} {mutant.module}:{mutant.line} {mutant.operator}", flush=True)
    tried_all = [
        Mutant(**m) for room in arguments.rooms for m in json.loads((WORK / f"{room}-results.json").read_text())
    ]
    if not print_score(tried_all):
        sys.exit(1)


if __name__ == "__main__":
    main()
