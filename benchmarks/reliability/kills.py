"""Does a run that was disturbed end where an undisturbed one does? Zero lost, doubled and wrong records.

    python benchmarks/reliability/kills.py --photos photos/ --scene scene/

`detect`, `match`, `verify`, `reconstruct`, `train` and Ray's runs are killed, fail, are refused and started twice; then
the same command runs to its end, and each record of what it left is compared with that of an undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
from campaigns import CAMPAIGNS, Bench, Row
from places import Faults, why_no_mounts, why_no_network
from runs import start_server
from work import prepare

KILLS = {
    "detect": 18, "match": 18, "verify": 18, "reconstruct": 18, "train": 18, "detect --ray": 5, "match --ray": 5,
}  # fmt: skip
_MOUNTS, _LIBRARY = ("full", "read-only"), ("operations", "errors", "turns-read-only", "odd-systems")
_COLUMNS = (
    "trials", "faults", "stopped", "lost", "doubled", "wrong", "leftovers", "crashes", "unfinished", "processes",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos, for all but reconstruct")
    parser.add_argument("--scene", type=Path, required=True, help="photos of one scene, for reconstruct")
    parser.add_argument("--commands", nargs="*", default=list(KILLS), choices=list(KILLS))
    parser.add_argument("--campaigns", nargs="*", default=list(CAMPAIGNS), choices=list(CAMPAIGNS))
    parser.add_argument("--kills", type=float, default=1.0, help="times the number of random kills, which is 100")
    parser.add_argument("--count", type=int, default=12, help="faults of each other kind for a command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the table there as well, with notes on what went wrong")
    options = parser.parse_args()

    skipped = {}
    if reason := why_no_mounts():
        skipped |= dict.fromkeys(_MOUNTS, reason)
    if reason := why_no_network():
        skipped["network"] = reason
    if not shutil.which("gcc"):
        skipped |= dict.fromkeys(_LIBRARY, "there is no gcc")
    for campaign in options.campaigns:
        if campaign in skipped:
            print(f"skipped: {campaign} ({skipped[campaign]})")
    rows: list[Row] = []
    print("| fault | command | " + " | ".join(_COLUMNS) + " |\n|" + "---|" * (len(_COLUMNS) + 2))
    with tempfile.TemporaryDirectory(prefix="disk-kills-") as folder:
        scratch = Path(folder)
        faults = Faults(scratch) if shutil.which("gcc") else None
        start_server(faults.library if faults else None)
        for work in prepare(scratch, options.photos.resolve(), options.scene.resolve(), options.commands):
            place = scratch / work.name.replace(" ", "")
            place.mkdir()
            rng = np.random.default_rng([options.seed, *work.name.encode()])
            bench = Bench(work, place, faults, rng)
            print(
                f"{work.name}: {bench.records} records in {bench.seconds:.1f} s with {bench.operations} operations",
                flush=True,
            )
            for campaign in options.campaigns:
                # Ray starts what it shares between runs anew, and its workers write nothing
                if campaign in skipped or ("ray" in work.name and campaign not in ("kills", "twice")):
                    continue
                count = round(options.kills * KILLS[work.name]) if campaign == "kills" else options.count
                rows.append(CAMPAIGNS[campaign](bench, count))
                _show(rows[-1], bench)
                if options.json:
                    options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
            shutil.rmtree(place)
    raise SystemExit(0 if all(row.clean for row in rows) else 1)


def _show(row: Row, bench: Bench) -> None:
    values = [str(getattr(row, name)) for name in _COLUMNS]
    print(f"| {row.fault} | {row.command} | " + " | ".join(values) + " |", flush=True)
    for note in row.notes:
        print(f"    {note}", flush=True)


if __name__ == "__main__":
    main()
