"""Which device the work runs on, and on how many cores."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

import torch

from disk.errors import DiskError
from disk.options import option

_INSTRUCTIONS = (
    "avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_fp16",
    "asimd", "asimdhp", "bf16", "sve", "sve2", "i8mm",
)  # fmt: skip
_CROWDED = 1.5  # runnable threads a core from which processes slow each other down


def usable_cores() -> int:
    """The CPU cores that this process may use, which a scheduler or a container can make fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average() -> float:
    """Threads that run or wait for a core, in the mean of the last minute; 0 where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def crowded() -> bool:
    """Whether other work fills the cores: a time measured now is of that work as well."""
    return load_average() > _CROWDED * usable_cores()


@functools.cache
def cpu_name() -> str:
    """The CPU's model, such as `AMD EPYC, family 25, model 17`."""
    known = _first_core()
    if not known:
        return platform.processor() or platform.machine() or "unknown"
    if "model name" not in known:  # ARM has numbers only
        numbers = [f"{key[4:]} {value}" for key, value in known.items() if key.startswith("CPU ")]
        return ", ".join([platform.machine(), *numbers])
    return f"{known['model name']}, family {known.get('cpu family', '?')}, model {known.get('model', '?')}"


def cpu_instructions() -> list[str]:
    """The vector and matrix instructions of the CPU that matter here, by the system's names; empty if it names none."""
    known = _first_core()
    flags = set((known.get("flags") or known.get("Features") or "").split())
    if not flags and hasattr(torch.cpu, "get_capabilities"):  # not Linux, torch from 2.10 on
        flags = {name.replace("avx512_f", "avx512f") for name, there in torch.cpu.get_capabilities().items() if there}
    return [name for name in _INSTRUCTIONS if name in flags]


def _first_core() -> dict[str, str]:
    """What Linux tells of the first core; empty on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """The device of that name: `cpu`, `cuda`, `cuda:1`, `mps`; `auto` is CUDA, then Apple's GPU, then the CPU.

    CUDA devices come with their index. Raises DiskError for a device that this machine does not have.
    """
    there = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if name == "auto":
        name = next(kind for kind, count in there.items() if count)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DiskError(f"{option('device', name)}: no such device; use auto, cpu, cuda, cuda:1 or mps") from None
    count = there.get(device.type, 0)
    if device.index is not None and 0 < count <= device.index:
        raise DiskError(f"{option('device', name)}: this machine has {count} of these, numbered from 0")
    if count == 0:
        raise DiskError(
            f"{option('device', str(name))}: this machine has no such device; use {option('device', 'auto')}"
        )
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
