"""Which tests are too slow for `make test-fast`: rewrites tests/medium.txt from the times of a whole run.

    .venv/bin/python -m pytest -q -n 2 --dist loadfile --junitxml=times.xml
    .venv/bin/python tests/medium.py times.xml
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

LIST = Path(__file__).with_name("medium.txt")
_LIMIT = 0.25  # seconds, of the slowest parameters of a test


def listed() -> set[str]:
    """The tests of the list, `folder/test_file.py::test_name` without parameters."""
    return set(LIST.read_text(encoding="utf-8").split())


def main() -> None:
    found = set()
    for case in ElementTree.parse(sys.argv[1]).iter("testcase"):
        if float(case.get("time", 0)) > _LIMIT:
            folder = case.get("classname", "").removeprefix("tests.").replace(".", "/")
            found.add(f"{folder}.py::{case.get('name', '').partition('[')[0]}")
    LIST.write_text("\n".join(sorted(found)) + "\n", encoding="utf-8")
    print(f"{LIST}: {len(found)} tests take more than {_LIMIT} s")


if __name__ == "__main__":
    main()
