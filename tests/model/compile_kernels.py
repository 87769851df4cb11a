"""Compiles every detection kernel for a GPU that need not be present, and prints the resources that each uses.

    python compile_kernels.py DTYPE CAPABILITY

In a separate process, because kernels are either interpreted or compiled.
"""

import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from disk.model import batched, kernels
from disk.model.disk import DISK
from disk.model.kernels import fused

TYPES = {torch.uint8: "u8", torch.bool: "i1", torch.int32: "i32", torch.int64: "i64",
         torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}  # fmt: skip


def record(calls):
    """Replaces the launch of a kernel: keeps one call of each, and one for each meaning of `TAPS`."""

    def run(self, *args, grid, warmup, **options):
        named = dict(zip(self.arg_names, args, strict=True))
        calls.setdefault((self.fn.__name__, named.get("TAPS")), (self, args, options))

    return run


def source(kernel, args):
    """The input of Triton's compiler: types, and which pointers and integers are multiples of 16."""
    signature, constants, attributes = {}, {}, {}
    for i, (parameter, arg) in enumerate(zip(kernel.params, args, strict=True)):
        if parameter.is_constexpr or (type(arg) is int and arg == 1):
            signature[parameter.name], constants[(i,)] = "constexpr", arg
        elif isinstance(arg, torch.Tensor):
            signature[parameter.name], attributes[(i,)] = "*" + TYPES[arg.dtype], [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "fp32" if isinstance(arg, float) else "i32"
            if isinstance(arg, int) and arg % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes)


def main(dtype, capability):
    calls = {}
    JITFunction.run = record(calls)
    kernels.operations = lambda device, dtype: fused
    images = torch.zeros(2, 3, 32, 48, dtype=torch.uint8)
    sizes, allowed = torch.full((2, 2), 32, dtype=torch.int32), torch.ones(2, 32, 48, dtype=torch.bool)
    with torch.no_grad():
        layout = batched.lay_out(DISK().unet, getattr(torch, dtype))
        batched.detect(layout, images, sizes, 50, 5, True, allowed)
    for (name, _), (kernel, args, options) in calls.items():
        compiled = triton.compile(source(kernel, args), target=GPUTarget("cuda", int(capability), 32), options=options)
        print(name, compiled.metadata.shared)


if __name__ == "__main__":
    main(*sys.argv[1:])
