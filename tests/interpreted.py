"""Import this before triton: without a GPU, it makes Triton interpret its kernels on the CPU."""

import functools
import importlib.util
import inspect
import os

import torch

if importlib.util.find_spec("triton"):
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined, including triton's own

    import triton

    jit = triton.jit

    @functools.wraps(jit)
    def jit_of_the_source(function=None, **options):
        """Until 0.3.7, the last for Python 3.10, jaxtyping also wraps what is marked `no_type_check`."""
        return jit(function and inspect.unwrap(function), **options)

    triton.jit = jit_of_the_source

if os.environ.get("TRITON_INTERPRET") == "1":
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    multiply = InterpreterBuilder.create_dot

    def multiply_bfloat16(self, a, b, *arguments):
        """The interpreter keeps bfloat16 as integers and would multiply those."""
        if a.dtype.scalar == tl.bfloat16:
            a, b = (TensorHandle(self.cast_impl(x, tl.float32).data, tl.float32) for x in (a, b))
        return multiply(self, a, b, *arguments)

    InterpreterBuilder.create_dot = multiply_bfloat16
