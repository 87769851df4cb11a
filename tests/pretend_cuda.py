"""A CUDA device that is not there, for tests on a CPU: right results, and the errors that only a device shows.

A tensor on it (`CudaTensor`) keeps its numbers in a CPU tensor, and every operator runs on that one. What fails or
waits on a GPU fails or is counted here: tensors of several devices in one operator, `.numpy()`, a result in pinned
memory that is read before it has arrived, a kernel launched while another device is current, CUDA in a forked process,
anything that waits while a CUDA graph is captured. New memory holds NaN. A graph is a list of operators; replaying it
runs them again on the same memory, as a GPU does.

torch's C++ sees the device type `pretend` (PrivateUse1), for which autograd works without a GPU; Python sees `cuda`.
A process forked after a backward pass cannot run another one, as on a machine with a GPU.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils import backend_registration

from pretend_tensor import CudaTensor, Machine, aten, copy, is_pinned, machine, twin, unset

COUNT = 2  # devices; gradients work on the first only
POSSIBLE = (
    sys.platform == "linux"
    and not torch.cuda.is_available()
    and hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
)
_MEMORY = 1 << 34


class _Any(type(torch._C.Generator)):  # type: ignore[misc]
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, torch._C.Generator)


class Generator(torch._C.Generator, metaclass=_Any):
    """torch.Generator, also for the pretended device."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        return super().__new__(cls, "cpu")

    def __init__(self, device: Any = "cpu") -> None:
        self.on = torch.device(device)

    device = property(lambda self: self.on)


class Event:
    """Completes the copies that were started before it."""

    def __init__(self, **options: Any) -> None:
        self.copies = 0

    def record(self, stream: Any = None) -> None:
        self.copies = len(machine.arriving)

    def synchronize(self) -> None:
        machine.wait("an event", self.copies)


class CUDAGraph:
    """A list of operators."""

    def __init__(self) -> None:
        self.tape: list[Callable[[], None]] = []

    def replay(self) -> None:
        with torch.inference_mode():
            for run in self.tape:
                run()


class Stream:
    """Belongs to the device that was current. Only a name: operators run at once."""

    default_of_graphs: Stream | None = None

    def __init__(self, device: Any = None) -> None:
        self.device = torch.device("cuda", torch.cuda._utils._get_device_index(device, optional=True))


def _current_stream(device: Any = None) -> Stream:
    index = torch.cuda._utils._get_device_index(device, optional=True)
    return _streams().get(index) or machine.default_streams.setdefault(index, Stream(index))


def _set_stream(stream: Stream) -> None:
    _streams()[stream.device.index] = stream
    _exchange(stream.device.index)


def _streams() -> dict[int, Stream]:
    """The current stream of each device, where it is not the default one."""
    return machine.thread.__dict__.setdefault("streams", {})


@contextmanager
def capture(graph: CUDAGraph, stream: Stream | None = None, capture_error_mode: str = "global") -> Iterator[None]:
    """torch.cuda.graph: all graphs of a process share one stream, that of the first one's device, unless given one.

    After an operation that is not permitted, its stream stays the current one.
    """
    machine.wait("the start of a capture")
    Stream.default_of_graphs = Stream.default_of_graphs or Stream()
    context = torch.cuda.stream(stream or Stream.default_of_graphs)  # type: ignore[arg-type]
    context.__enter__()
    machine.thread.tape = graph.tape
    left = True
    try:
        yield
    except RuntimeError as error:
        left = "when stream is capturing" not in str(error)
        raise
    finally:
        machine.thread.tape = None
        if left:
            context.__exit__(None, None, None)


def _exchange(index: int) -> int:
    before = machine.thread.device
    if index >= 0:
        machine.thread.device = index
    return before


def _set_device(device: Any) -> None:
    _exchange(torch.cuda._utils._get_device_index(device))


def _launched(run: Callable[..., None]) -> Callable[..., None]:
    """Triton's launcher: pointers must be of the current device."""

    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        for number, x in enumerate([*args, *kwargs.values()]):
            if isinstance(x, torch.Tensor) and x.device != torch.device("cuda", machine.thread.device):
                where = f"{x.device}, the kernel on cuda:{machine.thread.device}"
                raise ValueError(f"Pointer argument (at {number}) cannot be accessed from Triton ({where})")
        args, kwargs = tuple(map(twin, args)), {name: twin(x) for name, x in kwargs.items()}
        machine.record(lambda: run(self, *args, **kwargs), machine.thread.device)()

    return call


def _to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Tensor.to: a device that the tensor is on is no change; C++ does not know what `cuda` without an index means."""
    if args and isinstance(args[0], torch.Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    elif args and isinstance(args[0], torch.dtype):
        args = (None, *args)
    kwargs = {**kwargs, **dict(zip(("device", "dtype", "non_blocking", "copy"), args, strict=False))}
    if kwargs.get("device") is not None:
        device = torch.device(kwargs["device"])
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", machine.thread.device)
        kwargs["device"] = None if self.is_cuda and device == self.device else device
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    return _original_to(self, **kwargs) if kwargs else self


_original_to, _original_tensor, _original_empty = torch.Tensor.to, torch.tensor, torch.empty


def _tensor(data: Any, *, device: Any = None, **options: Any) -> torch.Tensor:
    made = _original_tensor(data, **options)
    return made if device is None else made.to(device)


def _empty(*size: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
    made = _original_empty(*size, **options)
    if pin_memory:
        made = unset(made)
        made.pretend_pinned = True  # type: ignore[attr-defined]
    return made


def _pin(self: torch.Tensor) -> torch.Tensor:
    made = self.detach().clone()
    made.pretend_pinned = True  # type: ignore[attr-defined]
    return made


def _factory(operator: Any) -> Callable[..., CudaTensor]:
    """The operator that makes a tensor, on the pretended device."""

    def make(*args: Any, device: Any, pin_memory: Any = None, **options: Any) -> CudaTensor:
        made = operator(*args, **options, device="cpu")
        return CudaTensor(unset(made) if "empty" in operator.name() else made, device.index or 0)

    return make


_FACTORIES = (
    aten.empty.memory_format, aten.empty_strided.default, aten.eye.default, aten.eye.m,
    aten.arange.default, aten.arange.start, aten.arange.start_step,
)  # fmt: skip
_active = False


def _register() -> list[torch.library.Library]:
    """Make the device type known to torch, which counts the devices at the first backward pass."""

    class Backend(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.float16, torch.bfloat16]

    class Hooks(backend_registration._DummyPrivateUse1Hook):
        def is_available(self) -> bool:
            return _active

    backend_registration._setup_privateuseone_for_python_backend("pretend", Backend(), Hooks())
    libraries = [torch.library.Library("aten", "IMPL", key) for key in ("CUDA", "PrivateUse1")]
    for library in libraries:
        for operator in _FACTORIES:
            library.impl(operator, _factory(operator))
    libraries[1].impl("_copy_from", copy)
    return libraries


_LIBRARIES = _register() if POSSIBLE else []

_CUDA = {
    "_lazy_init": lambda: None,
    "is_available": lambda: True,
    "device_count": lambda: COUNT,
    "current_device": lambda: machine.thread.device,
    "set_device": _set_device,
    "_exchange_device": _exchange,
    "_maybe_exchange_device": _exchange,
    "current_stream": _current_stream,
    "set_stream": _set_stream,
    "synchronize": lambda device=None: machine.wait("synchronize"),
    "empty_cache": lambda: None,
    "memory_reserved": lambda device=None: 0,
    "memory_allocated": lambda device=None: 0,
    "max_memory_allocated": lambda device=None: 0,
    "reset_peak_memory_stats": lambda device=None: None,
    "mem_get_info": lambda device=None: (_MEMORY // 2, _MEMORY),
    "is_bf16_supported": lambda including_emulation=True: True,
    "is_current_stream_capturing": lambda: machine.thread.tape is not None,
    "get_device_capability": lambda device=None: (9, 0),
    "get_device_name": lambda device=None: "pretended GPU",
    "get_device_properties": lambda device=None: SimpleNamespace(
        total_memory=_MEMORY, name="pretended GPU", major=9, minor=0, multi_processor_count=132
    ),
    "Event": Event,
    "Stream": Stream,
    "CUDAGraph": CUDAGraph,
    "graph": capture,
}


_PROGRAMS = {
    "disk.model.kernels.fused._BLOCK": 512,
    "disk.model.kernels.fused._PIXELS": 1024,
    "disk.model.kernels.fused._POINTS": 32,
    "disk.matching.top_two_triton._ROWS": 256,
    "disk.matching.top_two_triton._COLUMNS": 256,
    "disk.training.fused._ROWS": 128,
    "disk.training.fused._COLUMNS": 128,
}


@contextmanager
def pretended() -> Iterator[Machine]:
    """While it is open, this machine has CUDA devices."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _CUDA.items():
            patch.setattr(torch.cuda, name, value)
        for name, value in {"Generator": Generator, "tensor": _tensor, "empty": _empty}.items():
            patch.setattr(torch, name, value)
        for name, value in {"to": _to, "pin_memory": _pin, "is_pinned": is_pinned}.items():
            patch.setattr(torch.Tensor, name, value)
        patch.setattr(torch.Tensor, "cuda", lambda self, device="cuda", **options: self.to(device, **options))
        patch.setattr("pretend_cuda._active", True)
        with contextlib.suppress(ImportError):
            from triton.runtime.interpreter import GridExecutor

            patch.setattr(GridExecutor, "__call__", _launched(GridExecutor.__call__))
            # interpreted, a program costs the same whatever its size
            for name, size in _PROGRAMS.items():
                patch.setattr(name, size)
        patch.setattr(Stream, "default_of_graphs", None)
        machine.__init__()  # type: ignore[misc]
        yield machine
        assert machine.thread.tape is None
