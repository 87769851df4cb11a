"""Where there is no GPU, Triton's kernels are interpreted, on tensors of the CPU."""

import interpreted  # noqa: F401
