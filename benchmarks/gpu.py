"""All GPU benchmarks, in under three minutes, and the tests that need a GPU, in two to five.

    python benchmarks/gpu.py [--device cuda] [--json gpu.json] [--tables detect match] [--seconds 8]

Runs in a checkout with torch, triton, numpy, h5py, pillow and tqdm; uses pytest and kornia if installed. The methods of
a table take turns, so that drifts of the machine's speed cancel out; ratios are ratios of medians. To check on any
machine that the program runs, use `--device cpu --tiny`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("disk") is None:
    sys.path.insert(0, str(ROOT / "src"))

import disk  # noqa: E402
from disk.matching.nearest import mutual_nearest, mutual_nearest_pairs  # noqa: E402
from disk.model.disk import DISK  # noqa: E402
from disk.training.augment import augment  # noqa: E402
from disk.training.data import Mix  # noqa: E402
from disk.training.rendering import RenderJob, rendered  # noqa: E402
from disk.training.step import accumulate_gradient, measured_convolutions, tuple_generator  # noqa: E402
from gpu_measuring import TINY, Plan, Row, measured, photographs, pictures, sampler  # noqa: E402
from gpu_peers import OBJECTIVE, RATIO, dense_gradient, kornia_detector, original_match  # noqa: E402

TESTS_TIMEOUT = 300  # seconds; on a new machine Triton compiles some two hundred kernels for the tests

# The measured functions of the package, in one place.


def detector(precision: str, device: torch.device, n: int) -> Callable[[Tensor], Any]:
    """Create a function that detects features in a batch of float images on the device."""
    model = disk.load(device=device, precision=precision)
    return lambda images: model.detect(images, n=n, max_size=0)


def match_one(d0: Tensor, d1: Tensor) -> Any:
    """Match one pair with the ratio test."""
    return mutual_nearest(d0, d1, RATIO)


def match_many(pairs: list[tuple[Tensor, Tensor]]) -> Any:
    """Match many pairs in one call."""
    return list(mutual_nearest_pairs(pairs, RATIO))


def gradient(model: DISK, batch: Any, generators: list[torch.Generator], bf16: bool) -> None:
    """Compute the gradient of one training step."""
    accumulate_gradient(model, batch, generators, OBJECTIVE, bf16=bf16)


# The tables.


def detection(plan: Plan) -> list[Row]:
    """Milliseconds per image and peak memory of detection, compared with kornia."""
    rows = []
    height, width = plan.size
    for precision in ("fp16", "fp32") if plan.device.type == "cuda" else ("fp32",):
        for batch in plan.batches:
            images = pictures(batch, height, width).to(plan.device)
            methods = {"disk": partial(detector(precision, plan.device, plan.n), images)}
            if importlib.util.find_spec("kornia") is not None:
                methods["kornia"] = partial(kornia_detector(precision, plan), images)
            if plan.device.type == "cuda":
                methods["disk, cudnn.benchmark"] = tuned(partial(detector(precision, plan.device, plan.n), images))
                if "kornia" in methods:
                    methods["kornia, cudnn.benchmark"] = tuned(methods["kornia"])
            for row in measured(methods, plan, each=batch):
                rows.append({"precision": precision, "batch": batch, **row})
    return rows


def tuned(run: Callable[[], Any]) -> Callable[[], Any]:
    """The same with cuDNN's algorithms chosen by measurement, which is not torch's default."""

    def call() -> Any:
        with measured_convolutions():
            return run()

    return call


def matching(plan: Plan) -> list[Row]:
    """Milliseconds per pair of matching, compared with the original's formula and kornia."""
    generator = torch.Generator().manual_seed(0)
    count = plan.pairs + 1
    sets = F.normalize(torch.randn(count, plan.n, 128, generator=generator), dim=2)
    # half of the features see the same points in all images
    sets[:, : plan.n // 2] = F.normalize(sets[0, : plan.n // 2] + 0.3 * sets[:, : plan.n // 2], dim=2)
    sets = sets.to(plan.device)
    one: dict[str, Callable[[], Any]] = {
        "disk": lambda: match_one(sets[0], sets[1]),
        "original": lambda: original_match(sets[0], sets[1]),
    }
    if importlib.util.find_spec("kornia") is not None:
        from kornia.feature import match_smnn

        one["kornia"] = lambda: match_smnn(sets[0], sets[1], RATIO)
    pairs = [(sets[0], sets[i + 1]) for i in range(plan.pairs)]
    many = {
        "disk": lambda: match_many(pairs),
        "original": lambda: [original_match(d0, d1) for d0, d1 in pairs],
    }
    return [{"pairs": 1, **row} for row in measured(one, plan)] + [
        {"pairs": plan.pairs, **row} for row in measured(many, plan, each=plan.pairs)
    ]


def training(plan: Plan) -> list[Row]:
    """Milliseconds per triplet and peak memory of a training step."""
    batch = sampler(plan, plan.triplet_size).tuples(range(plan.triplets))
    rows = measured({"disk": stepper(plan, batch, dense=False)}, plan, each=plan.triplets)
    height, width = plan.triplet_size
    return [{"triplets": plan.triplets, "size": f"{height}x{width}", **row} for row in rows]


def training_against_dense(plan: Plan) -> list[Row]:
    """The same with two triplets, compared with the original's dense formulation."""
    batch = sampler(plan, plan.dense_size).tuples(range(2))
    methods = {name: stepper(plan, batch, dense=name == "dense") for name in ("disk", "dense")}
    height, width = plan.dense_size
    return [{"triplets": 2, "size": f"{height}x{width}", **row} for row in measured(methods, plan, each=2)]


def stepper(plan: Plan, batch: Any, dense: bool) -> Callable[[], None]:
    """Create a function that runs one step, in bf16 on a GPU; a learning rate of 0 makes all steps the same."""
    model = disk.load(device=plan.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0)
    bf16 = plan.device.type == "cuda"

    def step() -> None:
        generators = [tuple_generator(0, i, "keypoints", plan.device) for i in range(len(batch))]
        (dense_gradient if dense else gradient)(model, batch, generators, bf16)
        optimizer.step()
        optimizer.zero_grad()

    return step


def rendering(plan: Plan) -> list[Row]:
    """Milliseconds per triplet: rendering, augmentation, and both in two processes as in training."""
    scenes = sampler(plan, plan.triplet_size)
    numbers = range(plan.rendered)
    images = scenes.render(numbers).images

    def augmented() -> Tensor:
        return augment(images, [torch.Generator().manual_seed(i) for i in numbers])

    # no ratios: these are successive steps, not alternatives
    parts = {"render": lambda: scenes.render(numbers), "augment": augmented}
    rows = [{"triplets": plan.rendered, **row} for row in measured(parts, plan, each=plan.rendered, ratio=False)]
    if plan.device.type == "cuda":
        rows.append({"triplets": plan.rendered, "method": "two processes, augmented", "ms": fed(plan)})
    return rows


def fed(plan: Plan) -> float:
    """Milliseconds per triplet, rendered and augmented by two dedicated processes."""
    with tempfile.TemporaryDirectory() as folder:
        for number, photo in enumerate(photographs()):
            Image.fromarray(photo).save(Path(folder) / f"{number}.png")
        job = RenderJob(Path(folder), *plan.triplet_size, 3, 0, plan.device, augmented=True)
        groups = rendered(job, partial(Mix(1.0, plan.rendered, 0, 1).groups, 0, 1), 2)
        for _ in range(4):  # skip what was made while the processes started
            next(groups)
        start = time.perf_counter()
        count = 0
        while count < 2 or time.perf_counter() - start < plan.seconds:
            next(groups)
            count += 1
        taken = time.perf_counter() - start
        groups.close()
    return 1e3 * taken / (count * plan.rendered)


def tests(plan: Plan) -> list[Row]:
    """Result of the tests marked gpu."""
    if importlib.util.find_spec("pytest") is None:
        return [{"result": "pytest is not installed"}]
    files = [str(f) for f in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in f.read_text(encoding="utf-8")]
    # without pytest's options in pyproject.toml, which need jaxtyping and beartype
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-o", "addopts=", "-p", "no:cacheprovider"]
    command += ["--continue-on-collection-errors", *files]  # of files that need a library that is not there
    # the package need not be installed
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    how: dict[str, Any] = {"capture_output": True, "text": True, "timeout": TESTS_TIMEOUT}
    try:
        result = subprocess.run(command, cwd=ROOT, env=environment, **how)
    except subprocess.TimeoutExpired as late:
        done = (late.stdout or b"").decode(errors="replace").splitlines()  # bytes, although text is asked for
        failed = [line for line in done if "FAILED" in line or "ERROR" in line]
        raise RuntimeError("\n".join([f"not done after {TESTS_TIMEOUT} s", *failed, *done[-1:]])) from None
    lines = result.stdout.strip().splitlines() or result.stderr.strip().splitlines() or ["no output"]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    if result.returncode not in (0, 5):  # 5: no tests collected
        raise RuntimeError("\n".join([*failed, lines[-1]]))
    return [{"result": lines[-1]}]


TABLES: dict[str, Callable[[Plan], list[Row]]] = {
    "detect": detection,
    "match": matching,
    "train": training,
    "dense": training_against_dense,
    "render": rendering,
    "tests": tests,
}


def show(name: str, rows: list[Row]) -> None:
    """Print a table."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [[_text(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    print(f"\n{name}: {(TABLES[name].__doc__ or '').splitlines()[0]}")
    for row in cells:
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)), flush=True)


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def main() -> int:
    """Run the tables; returns 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu to check that it runs")
    parser.add_argument("--tables", nargs="*", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seconds", type=float, default=Plan.seconds, help="seconds per table of two methods")
    parser.add_argument("--json", type=Path, help="file for the figures, which are also printed as the last line")
    parser.add_argument("--tiny", action="store_true", help="small sizes")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", 0)
    plan = Plan(device, seconds=options.seconds)
    if options.tiny:
        plan = replace(plan, **TINY)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}", flush=True)
    results: dict[str, Any] = {"device": where, "torch": torch.__version__, "tiny": options.tiny}
    begun = time.perf_counter()
    failed = False
    for name in options.tables:
        try:
            results[name] = TABLES[name](plan)
            show(name, results[name])
        except Exception as error:  # continue with the other tables
            failed = True
            results[name] = {"error": str(error)}
            print(f"\n{name}: failed\n{traceback.format_exc()}", flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    results["seconds"] = time.perf_counter() - begun
    print()
    text = json.dumps(results)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
