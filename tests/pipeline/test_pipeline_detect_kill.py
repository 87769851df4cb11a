"""`kill -9` on a real process at several moments, then the same command again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from disk.storage.artifacts import read_features

# Loading torch takes seconds, so one process loads it and forks the runs before it computes anything.
DRIVER = """
import os, signal, sys, time
from pathlib import Path
import disk.pipeline.detect as stage

stage.SHARD_BYTES = 1
root = Path(sys.argv[1])
options = stage.DetectOptions(n=30, backend="torch", device="cpu", workers=2)

def start(out):
    pid = os.fork()
    if pid == 0:
        stage.detect(root / out, root / "photos", options)
        os._exit(0)
    return pid

assert os.waitpid(start("undisturbed"), 0)[1] == 0
for shards in map(int, sys.argv[2:]):
    out = root / f"killed{shards}"
    pid = start(out.name)
    while not (out / ".lock").exists() or len(list(out.glob(".features-*.h5"))) < shards:
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL and not (out / "scores.h5").exists()
    assert os.waitpid(start(out.name), 0)[1] == 0
"""


MOMENTS = (0, 1, 5, 11)  # number of finished shards, one image each, of twelve


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_the_same_command_ends_with_the_same_contents(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        image = rng.integers(0, 256, (64 + 16 * (i % 2), 96, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "photos" / f"{i}.png")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path), *map(str, MOMENTS)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    with read_features(tmp_path / "undisturbed") as expected:
        assert len(expected) == 12
        for shards in MOMENTS:
            folder = tmp_path / f"killed{shards}"
            assert {path.name for path in folder.iterdir()} == {
                ".lock", "keypoints.h5", "descriptors.h5", "scores.h5", "photos.json",
            }  # fmt: skip
            with read_features(folder) as store:
                assert store.names == expected.names
                assert store.attributes == expected.attributes
                for name in store:
                    assert store.image_size(name) == expected.image_size(name)
                    assert torch.equal(store[name].keypoints, expected[name].keypoints)
                    assert torch.equal(store[name].scores, expected[name].scores)
                    assert torch.equal(store[name].descriptors, expected[name].descriptors)
