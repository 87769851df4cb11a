"""Triton compiles the kernels for a GPU without having one; the interpreter accepts code that the compiler rejects."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
from disk.model.kernels import fused


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "capability", "shared"), [("float16", "75", 64), ("float32", "80", 99)])
def test_every_kernel_compiles_and_fits_the_shared_memory(dtype, capability, shared, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    lines = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("compile_kernels.py")), dtype, capability],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    sizes = {name: int(size) for name, size in map(str.split, lines)}
    assert sizes.keys() == {name for name in vars(fused) if name.endswith("_kernel")}
    assert max(sizes.values()) <= shared * 1024
