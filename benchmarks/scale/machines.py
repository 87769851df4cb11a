"""Ray on machines of their own namespaces: one is lost and one joins in the middle; the matches are those of one."""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
from made import crowd
from namespaces import Machine, Network

import disk
from disk.pipeline.match import MatchOptions, match
from disk.storage.artifacts import MATCHES

_PORT = 6379
_RATIO = 0.95
# what `disk match --ray auto` runs, with a line for every so many pairs, and a byte for each in the /tmp of its machine
_DRIVER = """
import logging, sys
from pathlib import Path
from disk.pipeline import match as stage
from disk.pipeline.match_writers import MatchWriters
from disk.progress import log

class Telling(MatchWriters):
    count = 0
    def add(self, pair, matches):
        super().add(pair, matches)
        self.count += 1
        if self.count % 50 == 0:
            print("pairs", self.count, flush=True)

def counting(options, lightglue, make=stage._one_pair):
    match = make(options, lightglue)
    def match_one(*pair):
        with open("/tmp/pairs", "a") as count:
            count.write(".")
        return match(*pair)
    return match_one

stage.MatchWriters, stage._one_pair = Telling, counting
log.addHandler(logging.StreamHandler(sys.stdout))
log.setLevel(logging.INFO)
stage.match(Path(sys.argv[1]), stage.MatchOptions(rt=float(sys.argv[2]), ray="auto", device="cpu"))
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=120, help="all pairs of which are matched")
    parser.add_argument("--features", type=int, default=1000, help="of each image")
    parser.add_argument("--lose", choices=["kill", "cable"], default="kill", help="how the second node is lost")


def run(folder: Path, options: argparse.Namespace) -> None:
    here, there = folder / "here", folder / "there"
    for artifacts in (here, there):
        crowd(artifacts, options.images, options.features)
    match(here, MatchOptions(rt=_RATIO, device="cpu"))
    total = options.images * (options.images - 1) // 2
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    token |= {"PYTHONPATH": str(Path(disk.__file__).parents[1])}
    with Network(folder, ["head", "first", "second", "third"]) as machines:
        head, first, second, third = machines.values()
        _ray(head, token)
        for node in (first, second):
            _ray(node, token, head)
        driver = head.run(
            [sys.executable, "-c", _DRIVER, str(there), str(_RATIO)], token, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert driver.stdout is not None
        start, lost, joined, done = time.perf_counter(), False, False, 0
        for line in driver.stdout:
            if not line.startswith("pairs"):
                print(f"{time.perf_counter() - start:7.1f} s: {line}", end="", flush=True)
                continue
            done = int(line.split()[1])
            if done >= total / 4 and not lost:
                lost = True
                print(f"{time.perf_counter() - start:7.1f} s, {done} pairs: {second.name} is lost ({options.lose})")
                second.cut() if options.lose == "cable" else second.end()
            if done >= total / 3 and not joined:
                joined = True
                print(f"{time.perf_counter() - start:7.1f} s, {done} pairs: {third.name} joins", flush=True)
                _ray(third, token, head, wait=False)
        assert driver.wait() == 0, "the run on several machines failed"
        assert joined
        work = {name: (machine.folder / "pairs").stat().st_size for name, machine in machines.items()}
    same, count = _compare(here / MATCHES, there / MATCHES)
    print(f"\n{count} of {total} pairs, {same} equal those of one machine; matched by {work}")
    assert same == count == total


def _ray(machine: Machine, environment: dict[str, str], head: Machine | None = None, wait: bool = True) -> None:
    """Start Ray with one core on a machine, as the head or a node of a head."""
    place = (
        [f"--address={head.address}:{_PORT}"] if head else ["--head", f"--port={_PORT}", "--include-dashboard=false"]
    )
    place += [f"--node-ip-address={machine.address}", "--num-cpus=1", "--object-store-memory=100000000"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *place]
    log = (machine.folder / "start.log").open("w")
    process = machine.run(command, environment, stdout=log, stderr=subprocess.STDOUT)
    if wait and process.wait():
        raise RuntimeError(Path(log.name).read_text())


def _compare(expected: Path, found: Path) -> tuple[int, int]:
    """How many pairs of a file of matches are the same in another, and how many that has."""
    with h5py.File(expected) as one, h5py.File(found) as other:
        keys = [f"{key}/{name}" for key in other for name in other[key]]
        return sum(key in one and np.array_equal(one[key], other[key]) for key in keys), len(keys)
