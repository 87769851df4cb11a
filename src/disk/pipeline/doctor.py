"""Diagnosing this machine: libraries, device, precision, memory, and a self-check that detects and matches."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from dataclasses import dataclass, field
from time import perf_counter

from disk.errors import OPTIONAL
from disk.pipeline.libraries import BASE, Extra, Library, extras_of, import_each
from disk.versions import PACKAGE, installed

_SHIFT = (32, 16)  # pixels in x and y between the images of the self-check, multiples of the network's stride


@dataclass(frozen=True)
class Machine:
    """The hardware as seen by torch.

    device, why: the choice of `auto` and its reason
    cuda: version of CUDA that torch was built with; None for a build without it
    gpus: name and memory of each
    cpu: model of the CPU
    cores: number that this process may use
    threads: number that torch uses
    instructions: vector and matrix instructions of the CPU
    torch_uses: the best set of them that torch uses
    precision: the choice of `auto`
    half: half precisions that the hardware supports
    triton: version of Triton and whether it is used, in words
    memory: free and total, in GiB; None if unknown
    faster: measured seconds of each implementation of a task on this CPU
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
    """Features of two overlapping images and their matches.

    keypoints, matches: their numbers
    correct: share of correct matches
    backend: engine and device
    seconds: to load the weights, to detect in both images after a warm-up, to match
    problem: what went wrong; None if nothing did
    """

    keypoints: int = 0
    matches: int = 0
    correct: float = 0.0
    backend: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """The whole diagnosis.

    machine: None if torch does not work
    problem: why `machine` is incomplete or missing; None otherwise
    check: None if a library is missing or broken
    healthy: whether detection and matching work
    """

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
    found = import_each([*BASE, *OPTIONAL])
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
        extras_of(found),
        machine,
        problem,
        check,
        healthy=problem is None and check is not None and check.problem is None,
    )


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
