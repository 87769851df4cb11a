"""The batched operations of the network and detection: in plain torch (`plain`) and by Triton's kernels (`fused`).

Both modules have the same functions; `operations` chooses one of them.
"""

from __future__ import annotations

import functools
import importlib.util
from types import ModuleType

import torch

_CAPABILITY = (7, 0)  # Volta, the first GPU with tensor cores and the oldest that Triton compiles for
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def operations(device: torch.device, dtype: torch.dtype) -> ModuleType:
    """Triton's kernels on a GPU that supports them, if no gradients are needed; otherwise plain torch."""
    if device.type == "cuda" and dtype in _DTYPES and not torch.is_grad_enabled() and has_kernels(device):
        from disk.model.kernels import fused

        return fused
    from disk.model.kernels import plain

    return plain


@functools.cache
def has_kernels(device: torch.device) -> bool:
    """Whether Triton compiles kernels for this GPU."""
    # torch brings Triton on Linux, but not on Windows
    return importlib.util.find_spec("triton") is not None and torch.cuda.get_device_capability(device) >= _CAPABILITY
