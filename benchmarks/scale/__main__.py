"""What large collections cost, and whether several machines give what one does. Linux only.

    python benchmarks/scale pairs    --images 1415            # 10^6 pairs: rate and memory over time, a kill, the disk
    python benchmarks/scale images   --counts 500 5000        # retrieval, match, export, verify: seconds, memory, disk
    python benchmarks/scale machines                          # Ray: a node lost and one joining in the middle; root
    python benchmarks/scale training                          # torchrun on two nodes; root

Features are made, so no network runs and no photo is needed. `machines` and `training` need root and iproute2: each
machine is a network namespace with its own hostname, processes and /tmp, and a cable to a switch between them.
CPU seconds are of all threads of the process, and so of use on a machine that is not idle; wall seconds are not.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import machines

import images
import pairs
import training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), help="where folders are made, and removed after")
    commands = parser.add_subparsers(required=True)
    for module in (pairs, images, machines, training):
        command = commands.add_parser(module.__name__, help=(module.__doc__ or "").splitlines()[0])
        module.add_options(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work, prefix="scale-", ignore_cleanup_errors=True) as folder:
        options.run(Path(folder), options)


if __name__ == "__main__":
    main()
