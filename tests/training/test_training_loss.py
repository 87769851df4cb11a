"""The gradient of training against dense autograd, against exact expectations and against sampled REINFORCE."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch.nn.functional import normalize

from disk.datasets.records import PosedImage
from disk.features import Features
from disk.geometry.camera import Camera
from disk.matching import distribution
from disk.model.detection import sample_grid
from disk.model.disk import DISK
from disk.training.loss import pair_gradient
from disk.training.schedule import Weights
from disk.training.step import Totals, accumulate_gradient, pair_rewards, tuple_generator

SIZE = 32
WEIGHTS = Weights(positive=1.0, negative=-0.2, keypoint=-0.01, theta=20.0)


def plain_loss(f1: Features, f2: Features, rewards: torch.Tensor, theta: float, keypoint: float) -> torch.Tensor:
    """The loss as it is written in the paper."""
    distance = (f1.descriptors[:, None] - f2.descriptors[None]).pow(2).sum(2).sqrt()
    log_p = (-theta * distance).log_softmax(0) + (-theta * distance).log_softmax(1)
    weight = (rewards * log_p.exp()).detach()
    matching = (weight * (log_p + f1.scores[:, None] + f2.scores[None])).sum()
    return -matching - keypoint * (f1.scores.sum() + f2.scores.sum())


def view(number: int, dtype: torch.dtype = torch.float64, depth: bool = True) -> PosedImage:
    """A wall at depth 2 seen by cameras in a row."""
    generator = torch.Generator().manual_seed(number)
    K = torch.tensor([[30.0, 0, 15.5], [0, 30.0, 15.5], [0, 0, 1]], dtype=dtype)
    camera = Camera(K, torch.eye(3, dtype=dtype), torch.tensor([0.1 * number, 0.02, 0], dtype=dtype))
    image = torch.rand(3, SIZE, SIZE, generator=generator, dtype=dtype)
    return PosedImage(image, camera, torch.full((SIZE, SIZE), 2.0, dtype=dtype) if depth else None, str(number))


def network(dtype: torch.dtype = torch.float64) -> DISK:
    torch.manual_seed(0)
    return DISK(desc_dim=16).to(dtype)


def generators(count: int) -> list[torch.Generator]:
    return [tuple_generator(7, number, "keypoints", torch.device("cpu")) for number in range(count)]


def gradients(model: DISK) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("epipolar", "share"), [(False, 0.0), (True, 0.0), (False, 0.3), (True, 0.1)])
def test_gradient_equals_dense_autograd(epipolar: bool, share: float) -> None:
    """The dense network and one graph over all pairs, in float64, against detached pairs and the sparse head."""
    batch = [[view(0), view(1), view(2)], [view(3), view(4), view(5)]]
    model = network()
    # without penalties the mean reward, and with it the price of a keypoint, is positive
    weights = replace(WEIGHTS, negative=0.0, keypoint=0.0) if share > 0 else WEIGHTS
    sums = accumulate_gradient(model, batch, generators(2), weights, epipolar=epipolar, share=share)
    totals = Totals(*sums.tolist())
    ours = gradients(model)
    model.zero_grad()

    loss, priced = torch.zeros((), dtype=torch.float64), []
    for views, generator in zip(batch, generators(2), strict=True):
        heatmap, raw = model(torch.stack([v.image for v in views]))
        features = []
        for i, (points, log_p) in enumerate(sample_grid(heatmap[:, 0], generator)):
            x, y = points.unbind(1)
            features.append(Features(points.double(), normalize(raw[i, :, y, x].T, dim=1), log_p))
        own = torch.zeros((), dtype=torch.float64)
        for i, j in combinations(range(3), 2):
            f1, f2 = features[i], features[j]
            R = pair_rewards(f1.keypoints, f2.keypoints, views[i], views[j], weights, epipolar=epipolar)
            own = own + plain_loss(f1, f2, R, 20.0, weights.keypoint)
        for f in features if share > 0 else ():
            (gradient,) = torch.autograd.grad(own, f.scores, retain_graph=True)
            excess = min(max(len(f) / (share * (SIZE // 8) ** 2) - 1, 0), 1)
            priced.append(-float(gradient.mean()) * excess)
            own = own + priced[-1] * f.scores.sum()
        loss = loss + own
    loss.backward()
    assert all(price >= 0 for price in priced)
    assert any(price > 0 for price in priced) == (share > 0)

    assert (totals.pairs, totals.images) == (6, 6)
    assert ours.keys() == gradients(model).keys()
    # a bias before an instance normalisation has no gradient but rounding: measured by the largest gradient
    largest = max(float(g.abs().max()) for g in ours.values())
    for name, reference in gradients(model).items():
        torch.testing.assert_close(ours[name], reference, rtol=1e-7, atol=1e-12 * largest)


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
    pair = pair_gradient(unit1, unit2, rewards, theta=15.0, keypoint=-0.1)
    wrt_outputs = [pair.descriptors1, pair.descriptors2, pair.scores1, pair.scores2]
    outputs = [unit1.descriptors, unit2.descriptors, unit1.scores, unit2.scores]
    ours = torch.autograd.grad(outputs, leaves, wrt_outputs, retain_graph=True)
    affinity = -15 * torch.cdist(unit1.descriptors, unit2.descriptors)
    p = affinity.softmax(0) * affinity.softmax(1)
    assert pair.reward.item() == pytest.approx((rewards * p).sum().item(), rel=1e-9)
    assert pair.matches.item() == pytest.approx(p.sum().item(), rel=1e-9)
    assert pair.right.item() == pytest.approx(p[rewards > 0].sum().item(), rel=1e-9)
    plain = torch.autograd.grad(plain_loss(unit1, unit2, rewards, 15.0, -0.1), leaves)
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
    gradient = pair_gradient(*inputs, rewards, theta=3.0, keypoint=0.0)
    outputs = [f.descriptors for f in inputs] + [f.scores for f in inputs]
    wrt_outputs = [gradient.descriptors1, gradient.descriptors2, gradient.scores1, gradient.scores2]
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(outputs, leaves, wrt_outputs)])

    d1, d2 = (f.descriptors for f in features())
    affinity = -3.0 * (d1[:, None] - d2[None]).pow(2).sum(2).sqrt()
    forward = torch.multinomial(affinity.softmax(1), samples, replacement=True)  # for each i a j
    backward = torch.multinomial(affinity.softmax(0).T, samples, replacement=True)  # for each j an i
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
    """One 8x8 cell an image: the expected reward is a sum over 64 x 64 outcomes, whose gradient autograd knows."""
    torch.manual_seed(1)
    samples, penalty = 1500, -0.1
    logits = torch.randn(2, 8, 8, dtype=torch.float64) * 2
    points = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="xy"), 2).view(-1, 2)
    rewards = torch.where((points[:, None] - points[None]).abs().sum(2) <= 4, 1.0, -0.2).double()

    exact_logits = logits.clone().requires_grad_()
    cells = exact_logits.view(2, 64)
    probability = cells.softmax(1) * cells.sigmoid()
    # two single features match each other for certain
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
        pair = pair_gradient(features1, features2, R, theta=15.0, keypoint=penalty)
        outputs += [lp1, lp2]
        wrt_outputs += [pair.scores1, pair.scores2]
    # along some directions, as some pixels are drawn too rarely for an error bar of their own
    for gradient, reference in zip(torch.autograd.grad(outputs, many, wrt_outputs), exact, strict=True):
        directions = torch.cat([reference.view(64, 1), torch.randn(64, 20, dtype=torch.float64)], 1)
        along, expected = gradient.flatten(1) @ directions, reference.flatten() @ directions
        error = (along.mean(0) - expected) / (along.std(0) / samples**0.5)
        assert error.abs().max() < 4  # standard errors
        assert expected[0] > 5 * along.std(0)[0] / samples**0.5  # not lost in the noise


def test_images_without_keypoints_are_a_normal_case() -> None:
    model = network(torch.float32)
    with torch.no_grad():
        model.unet.path_up[-1].conv[3].bias[-1] = -1e4
    batch = [[view(0, torch.float32), view(1, torch.float32)]]
    totals = Totals(*accumulate_gradient(model, batch, generators(1), WEIGHTS).tolist())
    assert totals == Totals(0.0, 0.0, 0.0, 1.0, 0.0, 2.0)
    assert all((g == 0).all() for g in gradients(model).values())


def test_one_empty_image_of_a_pair_leaves_the_penalty() -> None:
    scores = torch.randn(3)
    full = Features(torch.zeros(3, 2), torch.ones(3, 4), scores)
    empty = Features(torch.zeros(0, 2), torch.zeros(0, 4), torch.zeros(0))
    gradient = pair_gradient(full, empty, torch.zeros(3, 0), theta=15.0, keypoint=-0.5)
    assert gradient.scores1.tolist() == [0.5, 0.5, 0.5]
    assert gradient.scores2.shape == (0,)
    assert gradient.matches == 0
    gradient = pair_gradient(empty, full, torch.zeros(0, 3), theta=15.0, keypoint=-0.5)
    assert gradient.scores2.tolist() == [0.5, 0.5, 0.5]
    assert not gradient.descriptors2.any()


def test_images_without_depth_use_the_epipolar_reward() -> None:
    points = torch.tensor([[3.0, 4.0], [10.0, 20.0], [16.0, 4.0]])
    with_depth, without = view(0, torch.float32), view(1, torch.float32, depth=False)
    mixed = pair_rewards(points, points, with_depth, without, WEIGHTS)
    full = view(1, torch.float32)
    assert torch.equal(mixed, pair_rewards(points, points, with_depth, full, WEIGHTS, epipolar=True))
    assert not torch.equal(mixed, pair_rewards(points, points, with_depth, full, WEIGHTS))


@pytest.mark.parametrize("epipolar", [False, True])
def test_matches_are_right_within_the_threshold(epipolar: bool) -> None:
    """The cameras are 0.1 apart along x, a shift of 30 * 0.1 / 2 pixels on the wall; the match is 1.2 px off in y."""
    one, other = torch.tensor([[10.0, 10.0]]), torch.tensor([[11.5, 11.2]])
    views = view(0, torch.float32), view(1, torch.float32)
    for threshold, reward in ((1.1, WEIGHTS.negative), (1.3, WEIGHTS.positive)):
        found = pair_rewards(one, other, *views, WEIGHTS, epipolar=epipolar, threshold=threshold)
        assert found.item() == pytest.approx(reward)


def test_bf16_points_the_same_way() -> None:
    batch = [[view(0, torch.float32), view(1, torch.float32)]]
    flat = []
    for bf16 in (False, True):
        model = network(torch.float32)
        accumulate_gradient(model, batch, generators(1), WEIGHTS, bf16=bf16)
        flat.append(torch.cat([g.flatten() for g in gradients(model).values()]))
    assert torch.cosine_similarity(flat[0], flat[1], dim=0) > 0.8
