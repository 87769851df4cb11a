"""Gradients for pairs of images: REINFORCE with the exact expectation over matches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from disk.blocks import blocks, rows_at_once
from disk.devices import send
from disk.matching.distribution import MatchDistribution
from disk.model.kernels import has_kernels
from disk.rewards.matches import match_rewards
from disk.rewards.terms import PairTerms
from disk.shapes import Float, Int, Tensor

# matches computed together where there is no kernel; six matrices of this size exist at a time
_MATCHES_AT_ONCE = {"cpu": 1 << 26, "other": 1 << 26}


@dataclass(frozen=True)
class PairGradients:
    """Gradients of the negative expected reward of some pairs, and their expectations.

    descriptors1, descriptors2: gradients of the descriptors; 0 for padding.
    rewards1, rewards2: expected reward of each keypoint's matches; its negative is the gradient of the keypoint's
    log-probability.
    matches: expected number of matches.
    right: expected number of matches with a positive reward.
    """

    descriptors1: Float[Tensor, "p n d"]
    descriptors2: Float[Tensor, "p m d"]
    rewards1: Float[Tensor, "p n"]
    rewards2: Float[Tensor, "p m"]
    matches: Float[Tensor, " p"]
    right: Float[Tensor, " p"]


@torch.no_grad()
def pair_gradients(
    d1: Float[Tensor, "p n d"],
    d2: Float[Tensor, "p m d"],
    counts1: Sequence[int],
    counts2: Sequence[int],
    terms: PairTerms,
    theta: float,
    together: bool = False,
) -> PairGradients:
    """Compute the gradients of pairs of images from their descriptors.

    Where Triton kernels are available, the full match matrix is never written. Half-precision descriptors are accepted;
    everything else is computed in single precision.
    d1, d2: padded descriptors; the first counts1[p] and counts2[p] rows are features.
    terms: terms of the keypoints, for the rewards.
    theta: inverse temperature of matching.
    together: process many pairs at once, for a GPU.
    """
    if fusible(d1):
        from disk.training import fused

        n1, n2 = (send(torch.tensor(c, dtype=torch.int32), d1.device) for c in (counts1, counts2))
        return PairGradients(*fused.pair_gradients(d1, d2, n1, n2, terms, theta))
    d1, d2 = d1.to(terms.one.dtype), d2.to(terms.one.dtype)
    found = PairGradients(
        torch.zeros_like(d1),
        torch.zeros_like(d2),
        d1.new_zeros(d1.shape[:2]),
        d2.new_zeros(d2.shape[:2]),
        d1.new_zeros(len(d1)),
        d1.new_zeros(len(d1)),
    )
    step = rows_at_once(d1.shape[1] * d2.shape[1], d1.device, _MATCHES_AT_ONCE) if together else 1
    for some in blocks(len(d1), step):
        n, m = max(counts1[some]), max(counts2[some])
        rewards = match_rewards(terms.part(some, n, m))
        if min(counts1[some]) < n or min(counts2[some]) < m:
            n1, n2 = (send(torch.tensor(c[some]), d1.device) for c in (counts1, counts2))
            part = expected_gradients(d1[some, :n], d2[some, :m], rewards, theta, n1, n2)
        else:
            part = expected_gradients(d1[some, :n], d2[some, :m], rewards, theta)
        found.descriptors1[some, :n], found.descriptors2[some, :m] = part.descriptors1, part.descriptors2
        found.rewards1[some, :n], found.rewards2[some, :m] = part.rewards1, part.rewards2
        found.matches[some], found.right[some] = part.matches, part.right
    return found


@torch.no_grad()
def expected_gradients(
    d1: Float[Tensor, "p n d"],
    d2: Float[Tensor, "p m d"],
    rewards: Float[Tensor, "p n m"],
    theta: float,
    counts1: Int[Tensor, " p"] | None = None,
    counts2: Int[Tensor, " p"] | None = None,
) -> PairGradients:
    """Compute the gradients for given rewards of all matches; without counts, all rows are features.

    DISK (Tyszkiewicz et al. 2020), section 3.3: given the keypoints, the expectation over matches is a sum over all
    (i, j), so only the sampling of keypoints adds noise. With w_ij = R_ij p_ij held fixed, the loss is
    -sum_ij w_ij (log p_ij + logp_i + logp_j), where logp is the log-probability of a keypoint.

    log p_ij = 2 s_ij - logsumexp_j s_ij - logsumexp_i s_ij with s = -theta * distance, hence
    d loss / d s_ij = -(2 w_ij - f_ij sum_j w_ij - b_ij sum_i w_ij) for the two softmaxes f and b. The distance is
    sqrt(2 - 2 a_ij) with a_ij = d1_i . d2_j, hence d s_ij / d a_ij = theta / distance.
    """
    matching = MatchDistribution(d1, d2, theta, counts1, counts2)
    of_row, of_column = d1.new_zeros(d1.shape[:2]), d2.new_zeros(d2.shape[:2])
    matches, right = d1.new_zeros(2, len(d1))
    for block in matching.blocks():
        forward, backward = matching.choices(matching.distance(block), block)
        p = forward.mul_(backward)
        matches += p.sum((1, 2))
        right += torch.where(rewards[:, block] > 0, p, 0.0).sum((1, 2))
        weight = p.mul_(rewards[:, block])
        of_row[:, block] = weight.sum(2)
        of_column += weight.sum(1)

    grad1, grad2 = torch.zeros_like(d1), torch.zeros_like(d2)
    for block in matching.blocks():
        distance = matching.distance(block)
        forward, backward = matching.choices(distance, block)
        slope = (forward * backward).mul_(rewards[:, block]).mul_(-2)
        slope.addcmul_(forward, of_row[:, block, None]).addcmul_(backward, of_column[:, None])
        slope.mul_(theta).div_(distance).masked_fill_(distance <= matching.floor, 0)
        grad1[:, block] = slope @ d2
        grad2.baddbmm_(slope.mT, d1[:, block])
    return PairGradients(grad1, grad2, of_row, of_column, matches, right)


def fusible(descriptors: Tensor) -> bool:
    """Whether `disk.training.fused` supports these descriptors: on a GPU with Triton, single or half precision."""
    return descriptors.is_cuda and descriptors.dtype.itemsize <= 4 and has_kernels(descriptors.device)
