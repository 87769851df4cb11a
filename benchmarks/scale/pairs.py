"""All pairs of many small images: rate and memory over time, a kill and a resume, bytes on disk."""

from __future__ import annotations

import argparse
import multiprocessing
import random
import signal
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from made import crowd
from measure import resident

from disk.features import Matches
from disk.matching.nearest import mutual_nearest
from disk.pairs.choose import Pair
from disk.pipeline import match as stage
from disk.pipeline.match import MatchOptions, match
from disk.pipeline.match_writers import MatchWriters
from disk.storage.artifacts import MATCHES, read_features, read_matches

RATIO = 0.95


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=1415, help="1415 have 1,000,405 pairs")
    parser.add_argument("--features", type=int, default=40, help="of each image")
    parser.add_argument("--every", type=int, default=100_000, help="pairs from one line to the next")
    parser.add_argument("--kill", type=float, default=0.5, help="share of the pairs after which the run is killed")
    parser.add_argument("--check", type=int, default=1000, help="pairs that are matched again, one by one")


def run(folder: Path, options: argparse.Namespace) -> None:
    artifacts = folder / "artifacts"
    crowd(artifacts, options.images, options.features)
    total = options.images * (options.images - 1) // 2
    print(f"{options.images} images of {options.features} features, {total} pairs\n")
    print("| run | pairs | s | pairs/s | CPU ms a pair | memory, MB |\n|---|---|---|---|---|---|")
    killed = _run("first", artifacts, options.every, int(options.kill * total))
    done = _run("resumed", artifacts, options.every, None)
    with read_matches(artifacts) as matches, read_features(artifacts) as features:
        stored = matches.pairs()
        checked = random.Random(0).sample(stored, min(options.check, total))
        for pair in checked:
            expected = mutual_nearest(*(features[name].descriptors for name in pair), RATIO).indices.T.numpy()
            assert np.array_equal(matches[pair], expected), pair
    assert len(stored) == total, f"{len(stored)} pairs of {total} in the file"
    bytes_each = (artifacts / MATCHES).stat().st_size / total
    print(
        f"\nkilled after {killed} pairs, of which {killed + done - total} were matched again; all {total} are in the "
        f"file once; {len(checked)} of them equal a match of the two images alone; {bytes_each:.0f} bytes a pair"
    )


def _run(name: str, artifacts: Path, every: int, most: int | None) -> int:
    """Match in a process of its own, print its lines, and kill it after `most` pairs; returns how many were matched."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_match, args=(artifacts, every, most, theirs))
    process.start()
    theirs.close()
    count = 0
    while True:
        try:
            what, pairs, wall, cpu, memory = ours.recv()
        except EOFError:
            break
        if what == "kill":
            process.kill()
            count = pairs
            break
        rate = (
            f"{(pairs - count) / wall:.0f} | {1000 * cpu / (pairs - count):.3f}" if pairs > count else f"| {cpu:.1f} s"
        )
        print(f"| {name}{what} | {pairs} | {wall:.1f} | {rate} | {memory:.0f} |", flush=True)
        count = pairs
    process.join()
    if most is None and process.exitcode:
        raise RuntimeError(f"matching ended with {process.exitcode}")
    return count


def _match(artifacts: Path, every: int, most: int | None, pipe: Any) -> None:
    start = [perf_counter(), process_time()]
    count = 0

    def tell(what: str) -> None:
        now = [perf_counter(), process_time()]
        memory = resident("VmHWM") if "peak" in what else resident("VmRSS")
        pipe.send((what, count, now[0] - start[0], now[1] - start[1], memory))
        start[:] = now

    class Counting(MatchWriters):
        """Tells of every so many pairs."""

        def add(self, pair: Pair, matches: Matches) -> None:
            nonlocal count
            if not count:
                tell(": start")
            super().add(pair, matches)
            count += 1
            if count == most:
                tell("kill")
                signal.pause()
            if count % every == 0:
                tell("")

        def finish(self) -> None:
            if count % every:
                tell("")
            super().finish()
            tell(": merge")

    stage.MatchWriters = Counting
    torch.set_num_threads(2)
    match(artifacts, MatchOptions(rt=RATIO, device="cpu", u16=False))
    tell(": end, peak")
