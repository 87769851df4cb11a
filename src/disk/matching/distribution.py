"""The match distribution of training: how probable each match of two sets of features is."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from disk.shapes import Float, Tensor


def log_match_probability(
    d0: Float[Tensor, "n d"], d1: Float[Tensor, "m d"], theta: float
) -> Float[Tensor, "n m"]:
    """log P(i <-> j): the log-softmax over rows plus that over columns of -theta * distance.

    d0, d1: unit descriptors; theta: inverse temperature. DISK (Tyszkiewicz et al. 2020), section 3.2: a
    match is drawn forward and backward, and kept when the two agree.
    """
    affinity = -theta * descriptor_distance(d0, d1)
    return F.log_softmax(affinity, dim=0) + F.log_softmax(affinity, dim=1)


def descriptor_distance(d0: Float[Tensor, "n d"], d1: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Euclidean distance of unit descriptors; at distance 0, up to rounding, its gradient is 0, not infinite."""
    squared = 2 - 2 * d0 @ d1.T
    return squared.clamp(min=8 * torch.finfo(squared.dtype).eps).sqrt()
