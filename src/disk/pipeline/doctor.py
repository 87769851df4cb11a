"""Diagnosing this machine: libraries, device, precision, memory, and a self-check that detects and matches.

A broken library may crash Python, so each is first imported in a separate process.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from time import perf_counter

from disk.errors import OPTIONAL
from disk.versions import PACKAGE, installed

BASE = {"torch": "torch", "numpy": "numpy", "PIL": "pillow", "safetensors": "safetensors"}  # module -> distribution
# what extras take from others, as in pyproject.toml
_SHARED = {"train": ("poselib",)}  # extra -> modules that are listed with another one in OPTIONAL
_INCLUDED = {
    "sfm": ("cli",),
    "train": ("cli",),
    "eval": ("sfm", "baselines"),
    "all": (
        "cli", "sfm", "video", "train", "eval", "onnx", "gpu", "heic", "lightglue", "ray", "demo", "baselines",
    ),
}  # fmt: skip
_PATIENCE = 120  # seconds for imports
_SHIFT = (32, 16)  # pixels in x and y between the images of the self-check, multiples of the network's stride

# imports the given modules and reports on each in a line of JSON
_PROBE = """
import importlib, json, sys
say = sys.stdout
sys.stdout = sys.stderr
for name in sys.argv[1:]:
    try:
        module, problem = importlib.import_module(name), None
        number = str(getattr(module, "__version__", "")) or None
    except BaseException as error:
        problem, number = " ".join(f"{type(error).__name__}: {error}".split()), None
    print(json.dumps([name, number, problem]), file=say, flush=True)
"""


@dataclass(frozen=True)
class Library:
    """A library; version: None if not installed; problem: why it cannot be imported."""

    name: str
    version: str | None
    problem: str | None = None

    @property
    def works(self) -> bool:
        """Whether it is installed and can be imported."""
        return self.version is not None and self.problem is None


@dataclass(frozen=True)
class Extra:
    """An extra of the package.

    install: the command to install what is missing, None if complete; includes: other extras that are part of it.
    """

    name: str
    libraries: list[Library]
    install: str | None
    includes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Machine:
    """The hardware as seen by torch.

    device, why: the choice of `auto` and its reason. gpus: name and memory of each. cores: usable by this process;
    threads: used by torch. instructions: of the CPU; torch_uses: the best set that torch uses. precision: the choice of
    `auto`; half: supported half precisions. memory: free and total, in GiB, None if unknown. faster: measured seconds
    of each implementation of a task on this CPU.
    """

    device: str
    why: str
    cuda: str | None
    gpus: list[str]
    cpu: str
    cores: int
    threads: int
    instructions: list[str]
    torch_uses: str
    precision: str
    half: list[str]
    triton: str
    memory: tuple[float | None, float | None]
    faster: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class SelfCheck:
    """Features of two overlapping images and their matches; correct: share of correct matches.

    seconds: to load the weights, to detect in both images after a warm-up, to match. problem: what went wrong.
    """

    keypoints: int = 0
    matches: int = 0
    correct: float = 0.0
    backend: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """The whole diagnosis; healthy: whether detection and matching work."""

    version: str
    python: str
    system: str
    libraries: list[Library]
    extras: list[Extra]
    machine: Machine | None
    problem: str | None
    check: SelfCheck | None
    healthy: bool


def examine() -> Diagnosis:
    """Diagnose this machine; never raises."""
    found = _import([*BASE, *OPTIONAL])
    libraries = [found[module] for module in BASE]
    machine, check, problem = None, None, None
    broken = next((library for library in libraries if not library.works), None)
    if broken is not None:
        problem = f"{broken.name}: {broken.problem or 'not installed'}"
    else:
        check = _check()
        try:
            machine = _machine(found["triton"])
        except Exception as error:  # a broken driver may raise anything
            problem = _described(error)
    return Diagnosis(
        installed(PACKAGE) or "not installed",
        platform.python_version(),
        f"{platform.system()} {platform.release()} {platform.machine()}",
        libraries,
        _extras(found),
        machine,
        problem,
        check,
        healthy=problem is None and check is not None and check.problem is None,
    )


def _import(modules: Iterable[str]) -> dict[str, Library]:
    """The result of importing each module in a separate process."""
    found: dict[str, Library] = {}
    names = BASE | {module: distribution for module, (distribution, _) in OPTIONAL.items()}
    left = []
    for module in modules:
        if find_spec(module) is None:
            found[module] = Library(names[module], None)
        else:
            left.append(module)
    while left:
        command = [sys.executable, "-c", _PROBE, *left]
        environment = {**os.environ, "ORT_DISABLE_TELEMETRY": os.environ.get("ORT_DISABLE_TELEMETRY", "1")}
        try:
            done = subprocess.run(
                command, capture_output=True, encoding="utf-8", errors="replace", env=environment, timeout=_PATIENCE
            )
            said, end = done.stdout, f"importing it ends the process with exit code {done.returncode}"
        except subprocess.TimeoutExpired as error:
            output = error.stdout or b""
            said = output.decode(errors="replace") if isinstance(output, bytes) else output
            end = f"importing it takes more than {_PATIENCE} s"
        for line in said.splitlines():
            with contextlib.suppress(ValueError):
                module, number, problem = json.loads(line)
                found[module] = Library(names[module], installed(names[module]) or number or "?", problem)
        left = [module for module in left if module not in found]
        if left:  # the first of them crashed the process
            found[left[0]] = Library(names[left[0]], installed(names[left[0]]) or "?", end)
            left = left[1:]
    return found


def _extras(found: dict[str, Library]) -> list[Extra]:
    """All extras for users; those that only combine others come last. `dev` and `docs` are for work on the package."""
    members: dict[str, list[Library]] = {}
    for module, (_, extra) in OPTIONAL.items():
        members.setdefault(extra, []).append(found[module])
    members = dict(sorted(members.items()))
    for extra, modules in _SHARED.items():
        members.setdefault(extra, []).extend(found[module] for module in modules if module in found)
    extras: dict[str, Extra] = {}
    for name in (*(name for name in members if name not in _INCLUDED), *_INCLUDED):
        some, includes = members.get(name, []), [part for part in _INCLUDED.get(name, ()) if part in extras]
        complete = all(library.works for library in some) and not any(extras[part].install for part in includes)
        extras[name] = Extra(name, some, None if complete else f"pip install 'disk-features[{name}]'", includes)
    return list(extras.values())


def _machine(triton: Library) -> Machine:
    import torch

    from disk.devices import choose_device, cpu_instructions, cpu_name, usable_cores
    from disk.fastest import measured
    from disk.model.engine import has_instructions, resolve_precision
    from disk.model.kernels import has_kernels

    device = choose_device("auto")
    gpus, half = [], [kind for kind in ("bf16", "fp16") if has_instructions(kind)]
    if device.type == "cuda":
        why, half = "torch finds a CUDA GPU", ["fp16", *["bf16"] * torch.cuda.is_bf16_supported(False)]
        for number in range(torch.cuda.device_count()):
            free, whole = torch.cuda.mem_get_info(number)
            about = torch.cuda.get_device_properties(number)
            name = f"{about.name}, compute capability {about.major}.{about.minor}"
            gpus.append(f"{name}, {free / 2**30:.1f} of {whole / 2**30:.1f} GiB free")
    elif device.type == "mps":
        why = "torch finds Apple's GPU"
    elif torch.version.cuda is None and torch.version.hip is None:
        why = "this torch is built without CUDA"
    else:
        why = "this torch is built with CUDA, but finds no GPU or no driver for it"
    if triton.problem:
        kernels = f"does not work: {triton.problem}"
    elif triton.version is None:
        kernels = "not installed: a GPU uses plain torch, which is slower"
    elif device.type != "cuda":
        kernels = f"{triton.version}, not needed without a CUDA GPU"
    else:
        kernels = triton.version + ("" if has_kernels(device) else ", but the GPU is too old for it")
    return Machine(
        str(device),
        why,
        torch.version.cuda,
        gpus,
        cpu_name(),
        usable_cores(),
        torch.get_num_threads(),
        cpu_instructions(),
        torch.backends.cpu.get_cpu_capability(),
        resolve_precision("auto", device),
        half,
        kernels,
        _memory(),
        measured(),
    )


def _memory() -> tuple[float | None, float | None]:
    """Memory in GiB that this process can still allocate, and that of the machine; None if unknown."""
    free, whole = None, None
    with contextlib.suppress(Exception):  # a broken torch is reported elsewhere
        import torch

        from disk.devices import free_memory

        free = free_memory(torch.device("cpu")) / 2**30
    if hasattr(os, "sysconf"):
        with contextlib.suppress(OSError, ValueError):
            whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return free if free is not None and math.isfinite(free) else None, whole


def _check() -> SelfCheck:
    """Detect in two crops of one texture and match them: correct matches all have the same shift."""
    try:
        import numpy as np
        import torch
        from PIL import Image

        import disk

        rng = np.random.default_rng(0)
        coarse = Image.fromarray(rng.integers(0, 256, (52, 72, 3), dtype=np.uint8))
        texture = np.asarray(coarse.resize((288, 208), Image.Resampling.BICUBIC))
        x, y = _SHIFT
        images = [texture[: 208 - y, : 288 - x].copy(), texture[y:, x:].copy()]

        start = perf_counter()
        model = disk.load("default")
        seconds = {"load": perf_counter() - start}
        model.detect(images, n=256)  # warm-up: measures, compiles, allocates
        start = perf_counter()
        first, second = model.detect(images, n=256)
        seconds["detect"] = perf_counter() - start
        start = perf_counter()
        indices = disk.match(first, second).indices
        seconds["match"] = perf_counter() - start
        moved = first.keypoints[indices[:, 0]] - second.keypoints[indices[:, 1]]
        right = (moved - torch.tensor(_SHIFT, device=moved.device)).norm(dim=1) < 1
        correct = float(right.float().mean()) if len(right) else 0.0
        problem = None if len(right) >= 50 and correct > 0.9 else "detection runs, but its result is wrong"
        found = len(first) + len(second)
        return SelfCheck(found, len(right), correct, f"{model.engine.name} on {model.device}", seconds, problem)
    except Exception as error:  # report any failure
        return SelfCheck(problem=_described(error))


def _described(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
