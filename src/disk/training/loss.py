"""The gradient of a pair of images: REINFORCE with the exact expectation over matches."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from disk.features import Features
from disk.matching.distribution import MatchDistribution
from disk.shapes import Float, Tensor


@dataclass(frozen=True)
class PairGradient:
    """Of minus the expected reward, with respect to the two sets of features; and expectations to log.

    reward, matches, right: the sum of rewards, the number of matches and of those with a positive reward.
    """

    descriptors1: Float[Tensor, "n d"]
    descriptors2: Float[Tensor, "m d"]
    scores1: Float[Tensor, " n"]
    scores2: Float[Tensor, " m"]
    reward: Float[Tensor, ""]
    matches: Float[Tensor, ""]
    right: Float[Tensor, ""]


@torch.no_grad()
def pair_gradient(
    features1: Features, features2: Features, rewards: Float[Tensor, "n m"], theta: float, keypoint: float
) -> PairGradient:
    """The gradient for sampled keypoints, with log-probabilities as scores.

    rewards: of each match; theta: inverse temperature of matching; keypoint: reward (a penalty below 0) of each
    keypoint. DISK (Tyszkiewicz et al. 2020), section 3.3: given the keypoints, the expectation over matches is a sum
    over all (i, j), so only keypoints add noise. With w_ij = R_ij p_ij held fixed the loss is
    -sum_ij w_ij (log p_ij + logp_i + logp_j) - keypoint (sum_i logp_i + sum_j logp_j).

    log p_ij = 2 s_ij - logsumexp_j s_ij - logsumexp_i s_ij with s = -theta * distance, hence
    d loss / d s_ij = -(2 w_ij - f_ij sum_j w_ij - b_ij sum_i w_ij) for the two softmaxes f and b; and as the
    distance is sqrt(2 - 2 a_ij) for a_ij = d1_i . d2_j, d s_ij / d a_ij = theta / distance.
    """
    d1, d2 = features1.descriptors, features2.descriptors
    matching = MatchDistribution(d1, d2, theta)
    of_row, of_column = d1.new_zeros(len(d1)), d1.new_zeros(len(d2))
    matches, right = d1.new_zeros(()), d1.new_zeros(())
    for block in matching.blocks():
        forward, backward = matching.choices(matching.distance(block), block)
        p = forward.mul_(backward)
        matches += p.sum()
        right += p[rewards[block] > 0].sum()
        weight = p.mul_(rewards[block])
        of_row[block] = weight.sum(1)
        of_column += weight.sum(0)

    grad1, grad2 = torch.zeros_like(d1), torch.zeros_like(d2)
    for block in matching.blocks():
        distance = matching.distance(block)
        forward, backward = matching.choices(distance, block)
        slope = (forward * backward).mul_(rewards[block]).mul_(-2)
        slope.addcmul_(forward, of_row[block, None]).addcmul_(backward, of_column)
        slope.mul_(theta).div_(distance).masked_fill_(distance <= matching.floor, 0)
        grad1[block] = slope @ d2
        grad2.addmm_(slope.T, d1[block])
    return PairGradient(grad1, grad2, -(of_row + keypoint), -(of_column + keypoint), of_row.sum(), matches, right)
