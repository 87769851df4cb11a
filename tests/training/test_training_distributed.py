"""Two processes started by torchrun, compared with one that has the double batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

COMMAND = ["--height", "48", "--width", "48", "--desc-dim", "8", "--chunk-size", "3", "--warmup", "3"]
COMMAND += ["--n-epochs", "1", "--test-scene-limit", "2", "--workers", "0", "--views", "2", "--substep", "2"]
# Adam's first step moves each weight by the learning rate, regardless of the size of its gradient, so rounding
# decides where gradients vanish; a small rate keeps the weights, and with them the next gradients, comparable.
COMMAND += ["--lr", "1e-8"]


def run(processes: int, batch: int, data: Path, photos: Path, folder: Path) -> dict[str, Any]:
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += ["torch.distributed.run", "--nproc-per-node", str(processes), "--standalone", "-m"]
    arguments = ["disk", "train", str(data), "--synthesize", str(photos), "--save-dir", str(folder), *COMMAND]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*launch, *arguments, "--batch-size", str(batch)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return torch.load(folder / "last.pth", weights_only=True)


@pytest.fixture(scope="module")
def one_and_two(
    data: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("distributed")
    return run(1, 2, data, photos, folder / "one"), run(2, 1, data, photos, folder / "two"), folder


@pytest.mark.slow
def test_two_processes_equal_one_with_the_double_batch(
    one_and_two: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    """Rendered and read batches, steps of two batches and of one: the running means of the gradients agree."""
    one, two, _ = one_and_two
    assert one["position"] == two["position"] == [1, 0, 3]
    gradients = [state["optimizer"]["state"] for state in (one, two)]
    largest = max(float(parameter["exp_avg"].abs().max()) for parameter in gradients[0].values())
    for number, parameter in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][number]["exp_avg"], parameter["exp_avg"], rtol=1e-3, atol=1e-5 * largest
        )


def test_statistics_and_validation_cover_all_processes(
    one_and_two: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    *_, folder = one_and_two
    one, two = (
        [json.loads(line) for line in (folder / name / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("one", "two")
    )
    assert [record.keys() for record in two] == [record.keys() for record in one]
    for record_one, record_two in zip(one, two, strict=True):
        if "train/reward_per_pair" in record_one:
            assert record_two == pytest.approx(record_one, rel=1e-3)
    # written by one process only
    assert len(list((folder / "two").glob("*tfevents*"))) == 1
