"""The batched operations of detection: plain torch everywhere, and Triton's kernels with the same signatures."""
