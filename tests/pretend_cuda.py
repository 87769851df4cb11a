"""A CUDA device that is not there, for tests on a CPU: right results, and the errors that only a device shows.

A tensor on it (`CudaTensor`) keeps its numbers in a CPU tensor, and every operator runs on that one. What fails or
waits on a GPU fails or is counted here: tensors of several devices in one operator, `.numpy()`, a result in pinned
memory that is read before it has arrived, a kernel launched while another device is current, CUDA in a forked process,
anything that waits while a CUDA graph is captured. New memory holds NaN. A graph is a list of operators; replaying it
runs them again on the same memory, as a GPU does.

torch's C++ sees the device type `pretend` (PrivateUse1), for which autograd works without a GPU; Python sees `cuda`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_flatten, tree_unflatten

COUNT = 2  # devices; gradients work on the first only
aten = torch.ops.aten
_MEMORY = 1 << 34
# these wait for the device, because the host needs a number or the size of the result
_WAITS = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default,
    aten.bincount.default, aten._unique2.default, aten.unique_consecutive.default, aten.unique_dim.default,
    aten.repeat_interleave.Tensor, aten._linalg_check_errors.default,
}  # fmt: skip
_INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
# operators that take no number (0-dimensional tensor) from the CPU
_STRICT = {aten.cat.default, aten.stack.default, aten.index_select.default, aten.gather.default, aten.scatter_.src}
_WHOLE_NUMBERS = {aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default}  # CUDA has none
_no_numpy = "can't convert cuda:{} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."


class _Thread(threading.local):
    """What CUDA keeps for each thread."""

    device = 0
    tape: list[Callable[[], None]] | None = None  # operators of the graph being captured


class Machine:
    """The state of CUDA; `waits` counts how often the host has waited for the device."""

    def __init__(self) -> None:
        self.thread, self.waits, self.process = _Thread(), 0, os.getpid()
        self.arriving: list[Callable[[], None]] = []  # copies on their way to pinned memory

    def wait(self, why: str, copies: int | None = None) -> None:
        """Wait for the device, which completes the first `copies`."""
        if self.thread.tape is not None:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({why})")
        self.waits += 1
        with torch.inference_mode():  # which may change all tensors
            for arrive in self.arriving[:copies]:
                arrive()
        del self.arriving[:copies]

    def record(self, run: Callable[[], Any], index: int) -> Callable[[], Any]:
        """Keep work of a device in the graph, if one is captured on that device."""
        if self.thread.tape is not None and index == self.thread.device:
            self.thread.tape.append(run)
        return run


machine = Machine()


class CudaTensor(torch.Tensor):
    """A tensor on the pretended device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor, index: int) -> CudaTensor:
        self = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=torch.device("pretend", index),
        )  # fmt: skip
        self.inner, self.index = inner, index
        return self

    device = property(lambda self: torch.device("cuda", self.index))
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def get_device(self) -> int:
        return self.index

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(_no_numpy.format(self.index))

    def __array__(self, dtype: Any = None) -> Any:
        raise TypeError(_no_numpy.format(self.index))

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype).to(self.device)

    def pin_memory(self) -> torch.Tensor:
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")

    def __repr__(self) -> str:  # type: ignore[override]
        return f"cuda:{self.index} {self.inner!r}"

    def __deepcopy__(self, memo: dict[int, Any]) -> CudaTensor:
        copy = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            copy._is_param = True
        return memo.setdefault(id(self), copy.requires_grad_(self.requires_grad))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)  # a file says cuda:0, but nobody here could read it

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if os.getpid() != machine.process:
            raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")
        kwargs = dict(kwargs or {})
        if func in (aten.copy_.default, aten._copy_from.default):
            return _copy(*args, *kwargs.values())
        if func is aten._to_copy.default and kwargs.get("device") is not None:
            return _moved(args[0], **kwargs)
        return _run(func, args, kwargs)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operator on the tensors' CPU twins."""
    flat, spec = tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    index = _common_device(func, args, tensors)
    if func in _WAITS and kwargs.get("output_size") is None:
        machine.wait(str(func))
    if func in _INDEXING and any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1]):
        machine.wait("indexing by a mask")
    if func in _WHOLE_NUMBERS and not tensors[0].dtype.is_floating_point:
        raise RuntimeError(f'"addmm_cuda" not implemented for {tensors[0].dtype}')
    owners = {id(t.inner): t for t in tensors if isinstance(t, CudaTensor)}
    inner = [torch.device("cpu") if isinstance(x, torch.device) else _inner(x) for x in flat]
    inner_args, inner_kwargs = tree_unflatten(inner, spec)
    found = func(*inner_args, **inner_kwargs)
    machine.record(lambda: _again(func, inner_args, inner_kwargs, found), index)
    if (target := kwargs.get("device")) is not None:
        if torch.device(target).type == "cpu":
            return found
        index = torch.device(target).index or 0
    outs, spec = tree_flatten(found)
    if func.name().startswith(("aten::empty", "aten::new_empty")):
        outs = [_unset(x) for x in outs]
    # a view of a normal tensor is a normal one, even in inference mode
    normal = func.is_view and not any(t.is_inference() for t in tensors)
    with torch.inference_mode(torch.is_inference_mode_enabled() and not normal):
        return tree_unflatten([_wrapped(x, owners, index) for x in outs], spec)


def _wrapped(x: Any, owners: dict[int, CudaTensor], index: int) -> Any:
    if not isinstance(x, torch.Tensor):
        return x
    if id(x) not in owners:
        return CudaTensor(x, index)
    assert owners[id(x)].shape == x.shape, "an operator that changes the shape of its output is not pretended"
    return owners[id(x)]


def _common_device(func: Any, args: Any, tensors: list[torch.Tensor]) -> int:
    """The index of the device of all tensors; raises CUDA's error if they are on several."""
    there = {t.device for t in tensors if t.is_cuda}
    strangers = [t for t in tensors if not t.is_cuda and (t.dim() > 0 or func in _STRICT)]
    if func in _INDEXING:
        if not args[0].is_cuda:
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        strangers = [t for t in strangers if not any(t is index for index in args[1])]
    changed = func._schema.is_mutable and isinstance(args[0], torch.Tensor) and not args[0].is_cuda
    if len(there) > 1 or strangers or changed:
        where = ", ".join(f"{t.device} {tuple(t.shape)}" for t in tensors)
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got {where}")
    return next(iter(there)).index


def _again(func: Any, args: Any, kwargs: Any, found: Any) -> None:
    """Replay an operator into the same memory."""
    for old, new in zip(tree_flatten(found)[0], tree_flatten(func(*args, **kwargs))[0], strict=True):
        if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
            old.copy_(new)


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, CudaTensor) else x


def _unset(x: torch.Tensor) -> torch.Tensor:
    """New memory holds anything."""
    return x.fill_(torch.nan if x.is_floating_point() else 1 if x.dtype == torch.bool else torch.iinfo(x.dtype).max)


def _copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """`target.copy_(source)` between any devices."""
    to, of = _inner(target), _inner(source)
    pinned = is_pinned(target) or is_pinned(source)
    if target.is_cuda and source.is_cuda:
        machine.record(lambda: to.copy_(of), target.get_device())()
    elif target.is_cuda:
        if not (non_blocking and pinned):
            machine.wait("a copy from pageable memory")
        machine.record(lambda: to.copy_(of), target.get_device())()
    elif non_blocking and pinned:
        machine.record(lambda: _send(to, of), source.get_device())()
    else:
        machine.wait("a copy to the host")
        to.copy_(of)
    return target


def _send(to: torch.Tensor, of: torch.Tensor) -> None:
    now = of.clone()
    _unset(to)
    machine.arriving.append(lambda: to.copy_(now))


def _moved(source: torch.Tensor, *, device: Any, non_blocking: bool = False, **changes: Any) -> torch.Tensor:
    """`source.to(device)`; torch pins the result of an asynchronous copy to the host."""
    device = torch.device(device)
    format = changes.get("memory_format") or torch.preserve_format
    target = torch.empty_like(_inner(source), dtype=changes.get("dtype"), memory_format=format)
    if device.type == "cpu":
        target.pretend_pinned = non_blocking  # type: ignore[attr-defined]
    else:
        target = CudaTensor(target, device.index or 0)
    return _copy(target, source, non_blocking)


def is_pinned(x: torch.Tensor) -> bool:
    return getattr(x, "pretend_pinned", False)


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
    """Belongs to the device that was current."""

    default_of_graphs: Stream | None = None

    def __init__(self, device: Any = None) -> None:
        self.index = torch.cuda._utils._get_device_index(device, optional=True)


@contextmanager
def capture(graph: CUDAGraph, stream: Stream | None = None, capture_error_mode: str = "global") -> Iterator[None]:
    """torch.cuda.graph: all graphs of a process share one stream, that of the first one's device, unless given one."""
    machine.wait("the start of a capture")
    Stream.default_of_graphs = Stream.default_of_graphs or Stream()
    before = _exchange((stream or Stream.default_of_graphs).index)
    machine.thread.tape = graph.tape
    try:
        yield
    finally:
        machine.thread.tape = None
        _exchange(before)


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
        inner = [_inner(x) for x in args], {name: _inner(x) for name, x in kwargs.items()}
        machine.record(lambda: run(self, *inner[0], **inner[1]), machine.thread.device)()

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
        made = _unset(made)
        made.pretend_pinned = True  # type: ignore[attr-defined]
    return made


def _pin(self: torch.Tensor) -> torch.Tensor:
    made = self.detach().clone()
    made.pretend_pinned = True  # type: ignore[attr-defined]
    return made


class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


class _Hooks(backend_registration._DummyPrivateUse1Hook):
    active = False

    def is_available(self) -> bool:
        return self.active


def _factory(operator: Any) -> Callable[..., CudaTensor]:
    """The operator that makes a tensor, on the pretended device."""

    def make(*args: Any, device: Any, pin_memory: Any = None, **options: Any) -> CudaTensor:
        made = operator(*args, **options, device="cpu")
        return CudaTensor(_unset(made) if "empty" in operator.name() else made, device.index or 0)

    return make


# before the first backward pass, which counts the devices
backend_registration._setup_privateuseone_for_python_backend("pretend", _Backend(), _Hooks())
_FACTORIES = (
    aten.empty.memory_format, aten.empty_strided.default, aten.eye.default, aten.eye.m,
    aten.arange.default, aten.arange.start, aten.arange.start_step,
)  # fmt: skip
_KERNELS = [torch.library.Library("aten", "IMPL", key) for key in ("CUDA", "PrivateUse1")]
for _library in _KERNELS:
    for _operator in _FACTORIES:
        _library.impl(_operator, _factory(_operator))
_KERNELS[1].impl("_copy_from", _copy)

_CUDA = {
    "_lazy_init": lambda: None,
    "is_available": lambda: True,
    "device_count": lambda: COUNT,
    "current_device": lambda: machine.thread.device,
    "set_device": _set_device,
    "_exchange_device": _exchange,
    "_maybe_exchange_device": _exchange,
    "current_stream": lambda device=None: None,
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
        patch.setattr(_Hooks, "active", True)
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
