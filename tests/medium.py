"""Which tests are too slow for `make test-fast`: adds to tests/medium.txt by the times of a run.

    .venv/bin/python -m pytest -q -n 2 --dist loadfile -m "not slow and not medium" --junitxml=times.xml
    .venv/bin/python tests/medium.py times.xml

The time of a fixture counts for the first test that uses it, so repeat this until nothing is added.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

LIST = Path(__file__).with_name("medium.txt")
_LIMIT = 0.1  # seconds, of the slowest parameters of a test


def listed() -> set[str]:
    """The tests of the list, `folder/test_file.py::test_name` without parameters."""
    return set(LIST.read_text(encoding="utf-8").split()) if LIST.exists() else set()


def main() -> None:
    before, found = listed(), set()
    for case in ElementTree.parse(sys.argv[1]).iter("testcase"):
        if float(case.get("time", 0)) > _LIMIT:
            file = case.get("classname", "").removeprefix("tests.").replace(".", "/")
            found.add(f"{file}.py::{case.get('name', '').partition('[')[0]}")
    LIST.write_text("\n".join(sorted(before | found)) + "\n", encoding="utf-8")
    print(f"{LIST}: {len(found - before)} tests added, {len(before | found)} in all")


if __name__ == "__main__":
    main()
