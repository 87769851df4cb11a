"""The gradient of pairs compared with autograd, exact expectations, sampled REINFORCE and finite differences."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from torch.nn.functional import normalize

from disk.features import Features
from disk.matching import distribution
from disk.model.detection import sample_grid
from disk.training import loss
from disk.training.loss import PairGradients, expected_gradients, fusible


def plain_loss(f1: Features, f2: Features, rewards: torch.Tensor, theta: float) -> torch.Tensor:
    """Minus the expected reward as written in the paper, with the weights of the matches held fixed."""
    distance = (f1.descriptors[:, None] - f2.descriptors[None]).pow(2).sum(2).sqrt()
    log_p = (-theta * distance).log_softmax(0) + (-theta * distance).log_softmax(1)
    weight = (rewards * log_p.exp()).detach()
    return -(weight * (log_p + f1.scores[:, None] + f2.scores[None])).sum()


def of_pair(
    f1: Features, f2: Features, rewards: torch.Tensor, theta: float
) -> tuple[list[torch.Tensor], PairGradients]:
    """The gradients of descriptors and scores of one pair, and its record."""
    pair = expected_gradients(f1.descriptors[None], f2.descriptors[None], rewards[None], theta)
    return [pair.descriptors1[0], pair.descriptors2[0], -pair.rewards1[0], -pair.rewards2[0]], pair


def test_pair_gradient_in_blocks_equals_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(distribution._BLOCK, "cpu", 30)  # blocks of 3 rows, the last one of 2
    torch.manual_seed(0)
    f1, f2 = (
        Features(
            torch.zeros(n, 2),
            torch.randn(n, 5, dtype=torch.float64).requires_grad_(),
            torch.randn(n, dtype=torch.float64).requires_grad_(),
        )
        for n in (11, 9)
    )
    unit1, unit2 = (Features(f.keypoints, normalize(f.descriptors, dim=1), f.scores) for f in (f1, f2))
    rewards = torch.randint(-1, 2, (11, 9)).double()
    leaves = [f1.descriptors, f2.descriptors, f1.scores, f2.scores]
    wrt_outputs, pair = of_pair(unit1, unit2, rewards, theta=15.0)
    outputs = [unit1.descriptors, unit2.descriptors, unit1.scores, unit2.scores]
    ours = torch.autograd.grad(outputs, leaves, wrt_outputs, retain_graph=True)
    affinity = -15 * torch.cdist(unit1.descriptors, unit2.descriptors)
    p = affinity.softmax(0) * affinity.softmax(1)
    assert pair.rewards1.sum().item() == pytest.approx((rewards * p).sum().item(), rel=1e-9)
    assert pair.rewards2.sum().item() == pytest.approx((rewards * p).sum().item(), rel=1e-9)
    assert pair.matches.item() == pytest.approx(p.sum().item(), rel=1e-9)
    assert pair.right.item() == pytest.approx(p[rewards > 0].sum().item(), rel=1e-9)
    plain = torch.autograd.grad(plain_loss(unit1, unit2, rewards, 15.0), leaves)
    for mine, reference in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


def test_expected_match_gradient_equals_the_mean_of_sampled_ones() -> None:
    """Matches drawn one by one: forward and backward choices that agree (DISK, section 3.2)."""
    torch.manual_seed(0)
    samples = 40_000
    descriptors = [torch.randn(n, 4, dtype=torch.float64).requires_grad_() for n in (3, 4)]
    scores = [torch.randn(n, dtype=torch.float64).requires_grad_() for n in (3, 4)]
    rewards = torch.randn(3, 4, dtype=torch.float64)
    leaves = [*descriptors, *scores]

    def features() -> list[Features]:
        return [
            Features(torch.zeros(len(s), 2), normalize(d, dim=1), s) for d, s in zip(descriptors, scores, strict=True)
        ]

    inputs = features()
    wrt_outputs, _ = of_pair(*inputs, rewards, theta=3.0)
    outputs = [f.descriptors for f in inputs] + [f.scores for f in inputs]
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(outputs, leaves, wrt_outputs)])

    d1, d2 = (f.descriptors for f in features())
    affinity = -3.0 * (d1[:, None] - d2[None]).pow(2).sum(2).sqrt()
    forward = torch.multinomial(affinity.softmax(1), samples, replacement=True)  # a j for each i
    backward = torch.multinomial(affinity.softmax(0).T, samples, replacement=True)  # an i for each j
    agree = torch.zeros(samples, 3, 4, dtype=torch.float64)
    for i in range(3):
        agree[torch.arange(samples), i, forward[i]] = 1
    agree *= backward.T[:, None, :] == torch.arange(3)[None, :, None]

    # the score-function gradient of each possible match
    log_p = affinity.log_softmax(0) + affinity.log_softmax(1) + scores[0][:, None] + scores[1][None]
    per_match = torch.stack(
        [
            torch.cat(
                [g.flatten() for g in torch.autograd.grad(-rewards[i, j] * log_p[i, j], leaves, retain_graph=True)]
            )
            for i in range(3)
            for j in range(4)
        ]
    )
    drawn = agree.flatten(1) @ per_match
    error = (drawn.mean(0) - expected) / (drawn.std(0) / samples**0.5 + 1e-12)
    assert agree.sum() > samples  # there is something to average
    assert error.abs().max() < 4  # standard errors, over 35 numbers


def test_sampled_keypoint_gradient_is_unbiased() -> None:
    """One 8x8 cell per image: the expected reward is a sum over 64 x 64 outcomes, whose gradient autograd knows."""
    torch.manual_seed(1)
    samples, penalty = 1500, -0.1
    logits = torch.randn(2, 8, 8, dtype=torch.float64) * 2
    points = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="xy"), 2).view(-1, 2)
    rewards = torch.where((points[:, None] - points[None]).abs().sum(2) <= 4, 1.0, -0.2).double()

    exact_logits = logits.clone().requires_grad_()
    cells = exact_logits.view(2, 64)
    probability = cells.softmax(1) * cells.sigmoid()
    # two single features match with probability 1
    value = probability[0] @ rewards @ probability[1] + penalty * probability.sum()
    (exact,) = torch.autograd.grad(-value, exact_logits)

    many = [logit.expand(samples, 8, 8).clone().requires_grad_() for logit in logits]
    generator = torch.Generator().manual_seed(0)
    drawn = [sample_grid(heatmaps, generator) for heatmaps in many]
    one = torch.ones(1, 1, dtype=torch.float64)
    outputs, wrt_outputs = [], []
    for (x1, lp1), (x2, lp2) in zip(*drawn, strict=True):
        R = rewards[(x1[:, 1] * 8 + x1[:, 0])][:, x2[:, 1] * 8 + x2[:, 0]]
        features1 = Features(x1.double(), one[: len(x1)], lp1)
        features2 = Features(x2.double(), one[: len(x2)], lp2)
        gradients, _ = of_pair(features1, features2, R, theta=15.0)
        outputs += [lp1, lp2]
        wrt_outputs += [gradient - penalty for gradient in gradients[2:]]
    # along some directions, as some pixels are drawn too rarely for an error bar each
    for gradient, reference in zip(torch.autograd.grad(outputs, many, wrt_outputs), exact, strict=True):
        directions = torch.cat([reference.view(64, 1), torch.randn(64, 20, dtype=torch.float64)], 1)
        along, expected = gradient.flatten(1) @ directions, reference.flatten() @ directions
        error = (along.mean(0) - expected) / (along.std(0) / samples**0.5)
        assert error.abs().max() < 4  # standard errors
        assert expected[0] > 5 * along.std(0)[0] / samples**0.5  # not hidden by the noise


def test_gradient_of_the_expected_reward_by_finite_differences() -> None:
    """With only the descriptors varied, in float64: the score-function gradient is that of the expectation."""
    torch.manual_seed(0)
    d1, d2 = (torch.randn(n, 6, dtype=torch.float64) for n in (6, 5))
    rewards, step = torch.randint(-1, 2, (6, 5)).double(), 1e-6

    def loss() -> float:
        # also off the unit sphere: distances as in the closed form
        p = (2 - 2 * d1 @ d2.T).sqrt() * -3.0
        return -float((rewards * p.softmax(0) * p.softmax(1)).sum())

    d1, d2 = normalize(d1, dim=1), normalize(d2, dim=1)
    zeros = [torch.zeros(len(d)) for d in (d1, d2)]
    wrt, pair = of_pair(Features(d1[:, :2], d1, zeros[0]), Features(d2[:, :2], d2, zeros[1]), rewards, 3.0)
    assert loss() == pytest.approx(-pair.rewards1.sum().item(), rel=1e-12)
    for d, gradient in ((d1, wrt[0]), (d2, wrt[1])):
        for index in ((0, 0), (2, 3), (4, 5)):
            values = []
            for sign in (1, -1):
                d[index] += sign * step
                values.append(loss())
                d[index] -= sign * step
            assert (values[0] - values[1]) / (2 * step) == pytest.approx(gradient[index].item(), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("n", "m"), [(3, 0), (0, 3), (0, 0)])
def test_an_image_without_keypoints_has_no_matches(n: int, m: int) -> None:
    pair = expected_gradients(torch.ones(1, n, 4), torch.ones(1, m, 4), torch.zeros(1, n, m), 15.0)
    assert pair.descriptors1.shape == (1, n, 4)
    assert pair.rewards2.shape == (1, m)
    assert not any(part.any() for part in vars(pair).values())


@pytest.mark.parametrize("block", [40, 1 << 20])
def test_pairs_together_equal_each_pair_alone(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(distribution._BLOCK, "cpu", block)
    torch.manual_seed(0)
    counts = torch.tensor([[7, 5], [4, 6], [0, 3], [2, 0], [1, 1]])
    d1, d2 = (normalize(torch.randn(5, n, 8, dtype=torch.float64), dim=2) for n in (7, 6))
    rewards = torch.randn(5, 7, 6, dtype=torch.float64)
    together = expected_gradients(d1, d2, rewards, 15.0, *counts.unbind(1))
    for p, (n, m) in enumerate(counts.tolist()):
        alone = expected_gradients(d1[p : p + 1, :n], d2[p : p + 1, :m], rewards[p : p + 1, :n, :m], 15.0)
        for name, expected in vars(alone).items():
            padded = torch.zeros_like(getattr(together, name)[p])
            padded[tuple(slice(size) for size in expected.shape[1:])] = expected[0]
            torch.testing.assert_close(getattr(together, name)[p], padded, rtol=1e-12, atol=1e-14)


def test_equal_descriptors_do_not_pull_at_each_other() -> None:
    """At distance 0 the gradient of a distance is infinite; it counts as 0 there and where rounding decides."""
    d1 = torch.eye(3, dtype=torch.float64)[None]
    found = expected_gradients(d1[:, :1], d1[:, :1], torch.ones(1, 1, 1, dtype=torch.float64), 15.0)
    assert found.matches.item() == pytest.approx(1)
    assert not found.descriptors1.any()
    assert not found.descriptors2.any()
    # of two descriptors each is pushed only by the other, away from it
    found = expected_gradients(d1[:, :2], d1[:, :2], torch.eye(2, dtype=torch.float64)[None], 3.0)
    assert found.descriptors1[0, 0, 0] == found.descriptors1[0, 1, 1] == 0
    assert found.descriptors1[0, 0, 1] > 0
    with pytest.raises(FrozenInstanceError):
        found.matches = found.right  # type: ignore[misc]


@pytest.mark.parametrize("kernels", [True, False])
def test_kernels_take_single_and_half_precision_on_a_gpu(kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class OnAGpu(torch.Tensor):
        is_cuda = True

    monkeypatch.setattr(loss, "has_kernels", lambda device: kernels)
    kinds = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
    assert [fusible(torch.zeros(1, dtype=kind).as_subclass(OnAGpu)) for kind in kinds] == [kernels] * 3 + [False]
    assert not fusible(torch.zeros(1))
