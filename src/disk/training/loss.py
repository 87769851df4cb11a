"""The loss of a pair of images: REINFORCE with the exact expectation over matches."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from disk.features import Features
from disk.matching.distribution import log_match_probability
from disk.shapes import Float, Tensor


@dataclass(frozen=True)
class PairStats:
    """Expectations over the matches of a pair: sum of rewards, number of matches, of them right."""

    reward: Float[Tensor, ""]
    matches: Float[Tensor, ""]
    right: Float[Tensor, ""]


def pair_loss(
    features1: Features,
    features2: Features,
    rewards: Float[Tensor, "n m"],
    theta: float,
    keypoint: float,
) -> tuple[Float[Tensor, ""], PairStats]:
    """A scalar whose gradient is that of minus the expected reward, and what to log.

    features: sampled keypoints, with log-probabilities as scores; rewards: of each match; theta: inverse
    temperature of matching; keypoint: reward (a penalty below 0) of each keypoint.

    DISK (Tyszkiewicz et al. 2020), section 3.3. For the sampled keypoints the expectation over matches is a
    sum over all (i, j), so only keypoints add noise to the gradient:
    -sum_ij R_ij p_ij (grad log p_ij + grad logp_i + grad logp_j) - keypoint (sum_i grad logp_i + sum_j grad logp_j).
    """
    log_p = log_match_probability(features1.descriptors, features2.descriptors, theta)
    with torch.no_grad():
        p = log_p.exp()
        weight = rewards * p
        stats = PairStats(weight.sum(), p.sum(), torch.where(rewards > 0, p, 0).sum())
    matching = (weight * log_p).sum()
    detection = (weight.sum(1) + keypoint) @ features1.scores + (weight.sum(0) + keypoint) @ features2.scores
    return -(matching + detection), stats
