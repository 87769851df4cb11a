"""Cost of a batch on a GPU, counted on a CPU: kernel launches and peak memory.

    python benchmarks/launches.py [--batch 8] [--height 768 --width 1024] [--n 2048] [--precision fp16]

Convolutions and Triton kernels are counted but not run, so the contents of tensors are meaningless. Each torch operator
counts as one launch, views and allocations as none. A few operators (such as topk) are several CUDA kernels.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
import tyro
from torch.utils._python_dispatch import TorchDispatchMode

from disk.model import batched, kernels
from disk.model.disk import DISK
from disk.model.kernels import fused, plain

_FREE = {
    "empty",
    "empty_strided",
    "new_empty",
    "detach",
    "_unsafe_view",
    "_reshape_alias",
    "lift_fresh",
    "alias",
    "promote_types",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Size of the batch and precision."""

    batch: int = 8
    height: int = 768
    width: int = 1024
    n: int = 2048
    precision: str = "fp16"


class Costs(TorchDispatchMode):
    """Counts launches by name, and the peak bytes of all tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.peak = self._bytes = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in _FREE:
            self.launches[name] += 1
        if name == "convolution":
            x, weight = args[:2]
            shape = (len(x), len(weight), *x.shape[2:])
            out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        else:
            out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._watch(tensor.untyped_storage())
        return out

    def _watch(self, storage: Any) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if size and address not in self._storages:
            self._storages.add(address)
            self._bytes += size
            self.peak = max(self.peak, self._bytes)
            weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self._storages.discard(address)
        self._bytes -= size

    def kernel(self, name: str) -> Any:
        """A stub for a Triton kernel, which counts its launches."""

        class Kernel:
            def __getitem__(_, grid: Any) -> Callable[..., None]:
                return lambda *args, **options: self.launches.update([name])

        return Kernel()


def costs(operations: ModuleType, options: Options) -> Costs:
    """Costs of detection in one batch with the given operations, `plain` or `fused`."""
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[options.precision]
    images = torch.zeros(options.batch, 3, options.height, options.width, dtype=torch.uint8)
    sizes = torch.tensor([[options.height, options.width]] * options.batch, dtype=torch.int32)
    counted = Costs()
    stubs = {name: counted.kernel(name) for name in vars(fused) if name.endswith("_kernel")}
    with torch.no_grad(), patch.object(kernels, "operations", lambda *_: operations), patch.multiple(fused, **stubs):
        layout = batched.lay_out(DISK().unet, dtype)
        with counted:
            batched.detect(layout, images, sizes, options.n, 5, True)
    return counted


def main(options: Options) -> None:
    """Print the costs for each set of operations."""
    print(f"{options.batch} images of {options.width}x{options.height}, n = {options.n}, {options.precision}")
    for operations in (fused, plain):
        counted = costs(operations, options)
        memory = counted.peak / options.batch / 1e6
        print(f"{operations.NAME:8s}{counted.launches.total():6d} launches per batch{memory:8.0f} MB per image")
        print(" " * 8 + ", ".join(f"{name} {count}" for name, count in counted.launches.most_common()))


if __name__ == "__main__":
    main(tyro.cli(Options))
