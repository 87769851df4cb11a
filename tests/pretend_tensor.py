"""Tensors of the pretended CUDA device (`pretend_cuda`) and the operators on them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

aten = torch.ops.aten
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
_NO_NUMPY = "can't convert cuda:{} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory"


class _Thread(threading.local):
    """What CUDA keeps for each thread."""

    device = 0
    tape: list[Callable[[], None]] | None = None  # operators of the graph being captured


class Machine:
    """The state of CUDA; `waits` counts how often the host has waited for the device."""

    def __init__(self) -> None:
        self.thread, self.waits, self.process = _Thread(), 0, os.getpid()
        self.default_streams: dict[int, Any] = {}
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
        raise TypeError(_NO_NUMPY.format(self.index))

    def __array__(self, dtype: Any = None) -> Any:
        raise TypeError(_NO_NUMPY.format(self.index))

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
            return copy(*args, *kwargs.values())
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
    cpu_twins = [torch.device("cpu") if isinstance(x, torch.device) else twin(x) for x in flat]
    inner_args, inner_kwargs = tree_unflatten(cpu_twins, spec)
    found = func(*inner_args, **inner_kwargs)
    machine.record(lambda: _again(func, inner_args, inner_kwargs, found), index)
    if (target := kwargs.get("device")) is not None:
        if torch.device(target).type == "cpu":
            return found
        index = torch.device(target).index or 0
    outs, spec = tree_flatten(found)
    if func.name().startswith(("aten::empty", "aten::new_empty")):
        outs = [unset(x) for x in outs]
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


def twin(x: Any) -> Any:
    return x.inner if isinstance(x, CudaTensor) else x


def unset(x: torch.Tensor) -> torch.Tensor:
    """New memory holds anything."""
    return x.fill_(torch.nan if x.is_floating_point() else 1 if x.dtype == torch.bool else torch.iinfo(x.dtype).max)


def copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """`target.copy_(source)` between any devices."""
    to, of = twin(target), twin(source)
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
    unset(to)
    machine.arriving.append(lambda: to.copy_(now))


def _moved(source: torch.Tensor, *, device: Any, non_blocking: bool = False, **changes: Any) -> torch.Tensor:
    """`source.to(device)`; torch pins the result of an asynchronous copy to the host."""
    device = torch.device(device)
    format = changes.get("memory_format") or torch.preserve_format
    target = torch.empty_like(twin(source), dtype=changes.get("dtype"), memory_format=format)
    if device.type == "cpu":
        target.pretend_pinned = non_blocking  # type: ignore[attr-defined]
    else:
        target = CudaTensor(target, device.index or 0)
    return copy(target, source, non_blocking)


def is_pinned(x: torch.Tensor) -> bool:
    return getattr(x, "pretend_pinned", False)
