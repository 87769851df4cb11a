"""Which device the work runs on, on how many cores, and with how much memory."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

from disk.errors import DiskError
from disk.options import option
from disk.shapes import Tensor

_INSTRUCTIONS = (
    "avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_fp16",
    "asimd", "asimdhp", "bf16", "sve", "sve2", "i8mm",
)  # fmt: skip
_CROWDED = 1.5  # runnable threads per core above which processes slow each other down


def usable_cores() -> int:
    """The number of CPU cores this process may use; a scheduler or container can allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average() -> float:
    """Mean number of threads that ran or waited for a core in the last minute; 0 where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def crowded() -> bool:
    """Whether other work fills the cores, so that timings taken now are unreliable."""
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
    """The CPU's vector and matrix instructions that matter here, by the system's names; empty if it lists none."""
    known = _first_core()
    flags = set((known.get("flags") or known.get("Features") or "").split())
    if not flags and hasattr(torch.cpu, "get_capabilities"):  # not Linux, torch from 2.10 on
        flags = {name.replace("avx512_f", "avx512f") for name, there in torch.cpu.get_capabilities().items() if there}
    return [name for name in _INSTRUCTIONS if name in flags]


def _first_core() -> dict[str, str]:
    """The fields of the first core in Linux's /proc/cpuinfo; empty on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """The device of this name, with its index for CUDA.

    name: `cpu`, `cuda`, `cuda:1` or `mps`; `auto` chooses CUDA, else Apple's GPU, else the CPU

    Raises DiskError for a device that this machine does not have.
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


def send(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; from the CPU to a GPU without waiting for its pending work, unlike `Tensor.to`."""
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    # torch reuses the pinned memory, but only after the copy
    return values.pin_memory().to(device, non_blocking=True)


def free_memory(device: torch.device) -> float:
    """Bytes that this process can still allocate on a device; infinite if unknown.

    On a CPU, the memory available in the system, or less if a container, a job or a shell limit allows less.
    """
    if device.type == "cuda":
        # torch's cached memory is free as well
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    return max(0.0, min((_free_in_system(), *_free_in_groups(), _free_in_process())))


def _free_in_system() -> float:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return 1024.0 * int(line.split()[1])
    if hasattr(os, "sysconf"):  # macOS does not tell how much is in use: assume half
        with contextlib.suppress(ValueError, OSError):
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    return math.inf


def _free_in_groups(own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[float]:
    """Bytes left in each control group (v1 or v2) of this process that has a limit."""
    for line in _lines(own):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = top / path.strip("/")
        # in a container the path may be the host's; then only the top folder exists
        for folder in (group, *group.parents):
            limit, used = (_lines(folder / name) for name in names[:2])
            if limit and used and limit[0].isdigit():
                cached = [int(line.split()[1]) for line in _lines(folder / "memory.stat") if line.startswith(names[2])]
                yield float(int(limit[0]) - int(used[0]) + sum(cached))
            if folder == top:
                break


def _free_in_process() -> float:
    """Bytes left of the limit set by `ulimit -v`."""
    if find_spec("resource") is None:  # Windows
        return math.inf
    import resource

    limit, used = resource.getrlimit(resource.RLIMIT_AS)[0], _lines(Path("/proc/self/statm"))
    if limit == resource.RLIM_INFINITY or not used:
        return math.inf
    return float(limit - int(used[0].split()[0]) * resource.getpagesize())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
