"""Checks that damaged copies of a valid file are read or refused cleanly."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_isolation import is_clean, mutants, outcomes

Reader = Callable[[Path], Any]
PER_FILE = 6


def check(tmp_path: Path, seed: Path, read: Reader, count: int = PER_FILE, valid: bool = True) -> None:
    """The valid file is read, and damaged copies end cleanly. valid: whether the reader accepts the seed."""
    folder = tmp_path / f"damaged {seed.name}"
    folder.mkdir()
    inputs = [folder / f"valid{seed.suffix}"]
    shutil.copy(seed, inputs[0])
    for number, content in enumerate(mutants(seed.read_bytes(), count, seed=len(seed.name))):
        inputs.append(folder / f"{number}{seed.suffix}")
        inputs[-1].write_bytes(content)
    found = dict(zip([path.name for path in inputs], outcomes(read, inputs), strict=True))
    assert (found[inputs[0].name] == "read") == valid, found[inputs[0].name]
    assert not {name: outcome for name, outcome in found.items() if not is_clean(outcome)}


def beside(path: Path) -> Path:
    folder = Path(f"{path}.folder")
    folder.mkdir(exist_ok=True)
    return folder
