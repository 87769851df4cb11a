"""The campaigns: each disturbs a command again and again, lets it finish, and compares with an undisturbed run."""

from __future__ import annotations

import errno
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from places import Faults, fill, make_read_only, make_writable, mounted, network, size_of
from records import compare
from runs import Ended, Running
from work import Work

FOR_EVER = 1 << 60


@dataclass
class Row:
    """What a campaign came to.

    trials: folders that were disturbed; faults: how often; stopped: runs that a fault ended with one line and exit code
    2; lost, doubled, wrong: records; leftovers: files; crashes: tracebacks, signals, hangs; unfinished: trials that did
    not finish without the fault; processes: that outlived a killed run.
    """

    fault: str
    command: str
    trials: int = 0
    faults: int = 0
    stopped: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    leftovers: int = 0
    crashes: int = 0
    unfinished: int = 0
    processes: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing went wrong."""
        bad = (self.lost, self.doubled, self.wrong, self.leftovers, self.crashes, self.unfinished, self.processes)
        return not any(bad)


class Bench:
    """A command, its undisturbed run, and folders to disturb it in."""

    def __init__(self, work: Work, scratch: Path, faults: Faults | None, rng: np.random.Generator) -> None:
        self.work, self.faults, self.rng = work, faults, rng
        self._scratch = scratch
        self.reference, again = scratch / "reference", scratch / "again"
        self.records = 0
        for folder in (self.reference, again):
            shutil.copytree(work.before, folder)
            # not Ray's runs: what is started anew there would count too
            environment = faults.environment(folder) if faults and folder == again and "ray" not in work.name else {}
            ended = self.start(folder, environment).wait()
            if ended.code != 0:
                raise SystemExit(f"{work.name} ends with {ended.code} even undisturbed:\n{ended.output}")
        self.seconds, self.operations = ended.seconds, faults.operations() if environment else 0
        self.records = sum(1 for _ in work.read(self.reference))
        # two undisturbed runs must agree, or a difference would mean nothing
        differences = compare(again, self.reference, work.read, work.others)
        if differences:
            raise SystemExit(f"{work.name} differs from itself undisturbed: {differences}")
        shutil.rmtree(again)

    def fresh(self) -> Path:
        """A new folder with what the command starts from."""
        folder = self._scratch / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        return shutil.copytree(self.work.before, folder)

    def start(self, folder: Path, environment: dict[str, str] | None = None, number: int = 1) -> Running:
        """Start the command; number: of those at the same time."""
        return Running(self.work.arguments(folder), self._scratch / f"output-{number}", environment)

    def run(self, folder: Path, row: Row, environment: dict[str, str] | None = None, disturbed: bool = True) -> Ended:
        """Run once, noting how it ended."""
        ended = self.start(folder, environment).wait()
        if ended.crashed:
            row.crashes += 1
            row.notes.append(f"crash, {ended.code}: {ended.output[-1500:]}")
        elif disturbed:
            row.stopped += ended.code == 2
        return ended

    def finish(self, folder: Path, row: Row, what: str) -> None:
        """Run without a fault, and compare."""
        row.trials += 1
        ended = self.run(folder, row, disturbed=False)
        if ended.code != 0:
            row.unfinished += 1
            row.notes.append(f"{what}: does not finish, {ended.code}: {ended.output[-1500:]}")
            return
        found = compare(folder, self.reference, self.work.read, self.work.others)
        for name in ("lost", "doubled", "wrong", "leftovers"):
            setattr(row, name, getattr(row, name) + len(getattr(found, name)))
        if found:
            row.notes.append(f"{what}: { {key: value[:8] for key, value in asdict(found).items() if value} }")


def kills(bench: Bench, count: int) -> Row:
    """SIGKILL to the process group at moments drawn uniformly over the undisturbed run, up to three times in a row."""
    row = Row("SIGKILL, random moment", bench.work.name)
    while row.faults < count:
        folder, moments = bench.fresh(), []
        for _ in range(bench.rng.integers(1, 4)):
            moments.append(round(bench.rng.uniform(0, bench.seconds), 2))
            running = bench.start(folder)
            ended = running.wait(moments[-1])
            row.processes += running.left()
            if ended.code is not None:
                break
            row.faults += 1
        bench.finish(folder, row, f"killed after {moments} s")
    return row


def kills_at_operations(bench: Bench, count: int) -> Row:
    """SIGKILL right before an operation on the file system, drawn uniformly among those of an undisturbed run."""
    row = Row("SIGKILL, file operation", bench.work.name)
    for at in _some(bench, count):
        folder = bench.fresh()
        running = bench.start(folder, bench.faults.environment(folder, kind="kill", at=at))
        row.faults += running.wait().code == -signal.SIGKILL
        bench.finish(folder, row, f"killed at operation {at} of {bench.operations}")
    return row


def errors(bench: Bench, count: int) -> Row:
    """One operation fails, as on a network file system: EIO, ESTALE, EDQUOT, ENOSPC in turn."""
    row = Row("one operation fails", bench.work.name)
    kinds = [errno.EIO, errno.ESTALE, errno.EDQUOT, errno.ENOSPC]
    for number, at in enumerate(_some(bench, count)):
        _with(bench, row, f"{errno.errorcode[kinds[number % 4]]} at operation {at}", kind=kinds[number % 4], at=at)
    return row


def turns_read_only(bench: Bench, count: int) -> Row:
    """From some operation on all fail with EROFS, as where the system makes a faulty disk read-only."""
    row = Row("turns read-only", bench.work.name)
    for at in _some(bench, count):
        _with(bench, row, f"EROFS from operation {at} on", kind=errno.EROFS, at=at, **{"for": FOR_EVER})
    return row


def odd_systems(bench: Bench, count: int) -> Row:
    """File systems without locks, whose folders cannot be synced, or that do not tell their room."""
    row = Row("no locks, no folder sync, no statvfs", bench.work.name)
    for locks in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        _with(bench, row, f"locks: {errno.errorcode[locks]}", locks=locks)
    for sync in (errno.EINVAL, errno.EOPNOTSUPP):
        _with(bench, row, f"sync of a folder: {errno.errorcode[sync]}", sync=sync)
    _with(bench, row, "statvfs tells of no blocks", room=1)
    return row


def network_kills(bench: Bench, count: int) -> Row:
    """SIGKILL at random moments on a network's file system; what needs no database on a strict one as well."""
    row = Row("SIGKILL, network file system", bench.work.name)
    kinds = ["ordinary", "strict"] if bench.work.name in ("detect", "match", "train") else ["ordinary"]
    for number in range(count):
        kind, folder = kinds[number % len(kinds)], bench.fresh()
        source = shutil.copytree(bench.work.before, folder.with_name("source"))
        shutil.rmtree(folder)
        folder.mkdir()
        with network(source, folder, kind):
            moment = round(bench.rng.uniform(0, bench.seconds), 2)
            row.faults += bench.start(folder).wait(moment).code is None
            bench.finish(folder, row, f"{kind}, killed after {moment} s")
        shutil.rmtree(source)
    return row


def full_disks(bench: Bench, count: int) -> Row:
    """A small disk in memory that another program fills up to a random rest; then there is room again."""
    row = Row("disk full", bench.work.name)
    need = size_of(bench.reference) - size_of(bench.work.before)
    for share in bench.rng.uniform(0, 2, count):
        folder = bench.fresh()
        with mounted(folder, 8 * (size_of(bench.reference) + (4 << 20))):
            shutil.copytree(bench.work.before, folder, dirs_exist_ok=True)
            ballast = fill(folder, int(share * need))
            row.faults += 1
            bench.run(folder, row)
            ballast.unlink()
            bench.finish(folder, row, f"{int(share * need)} bytes free")
    return row


def read_only(bench: Bench, count: int) -> Row:
    """The folder is on a read-only file system, from the start; nothing may change; then it is writable."""
    row = Row("read-only folder", bench.work.name)
    folder = bench.fresh()
    with mounted(folder, 8 * (size_of(bench.reference) + (4 << 20))):
        shutil.copytree(bench.work.before, folder, dirs_exist_ok=True)
        make_read_only(folder)
        row.faults += 1
        bench.run(folder, row)
        make_writable(folder)
        bench.finish(folder, row, "read-only")
    return row


def two_at_once(bench: Bench, count: int) -> Row:
    """The same command twice on one folder, the second a random while after the first."""
    row = Row("two runs at once", bench.work.name)
    for pause in [0.0, *bench.rng.uniform(0, bench.seconds, count - 1)]:
        folder = bench.fresh()
        first = bench.start(folder)
        time.sleep(pause)
        both = [bench.start(folder, number=2).wait(), first.wait()]
        row.faults += 1
        for ended in both:
            row.stopped += ended.code == 2
            row.crashes += ended.crashed or (ended.code == 2 and "in use by another run" not in ended.output)
            if ended.code != 0 and "in use by another run" not in ended.output:
                row.notes.append(f"two at once: {ended.code}: {ended.output[-1500:]}")
        if all(ended.code != 0 for ended in both):
            row.crashes += 1
            row.notes.append("two at once: neither finished")
        bench.finish(folder, row, f"two at once, the second after {pause:.2f} s")
    return row


CAMPAIGNS: dict[str, Callable[[Bench, int], Row]] = {
    "kills": kills,
    "operations": kills_at_operations,
    "errors": errors,
    "turns-read-only": turns_read_only,
    "odd-systems": odd_systems,
    "full": full_disks,
    "read-only": read_only,
    "network": network_kills,
    "twice": two_at_once,
}


def _some(bench: Bench, count: int) -> list[int]:
    """Numbers of operations, each once."""
    return sorted(int(n) + 1 for n in bench.rng.permutation(bench.operations)[:count])


def _with(bench: Bench, row: Row, what: str, **settings: Any) -> None:
    folder = bench.fresh()
    row.faults += 1
    ended = bench.run(folder, row, bench.faults.environment(folder, **settings))
    if ended.code == 2:
        row.notes.append(f"({what}: {ended.output.strip()[-300:]})")
    bench.finish(folder, row, what)
