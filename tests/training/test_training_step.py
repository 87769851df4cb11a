"""The gradient of a step: of the network and all pairs, compared with dense autograd; all at once and one by one."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from step_scene import SIZE, WEIGHTS, flat_gradient, generators, gradients, network, rough, view
from torch.nn.functional import normalize

from disk.features import Features
from disk.model.detection import Sample, sample_grid
from disk.rewards.matches import pair_rewards
from disk.training import loss, step
from disk.training.step import Objective, Totals, accumulate_gradient, tuple_generator


def plain_loss(f1: Features, f2: Features, rewards: torch.Tensor, theta: float, keypoint: float) -> torch.Tensor:
    """The loss as written in the paper."""
    distance = (f1.descriptors[:, None] - f2.descriptors[None]).pow(2).sum(2).sqrt()
    log_p = (-theta * distance).log_softmax(0) + (-theta * distance).log_softmax(1)
    weight = (rewards * log_p.exp()).detach()
    matching = (weight * (log_p + f1.scores[:, None] + f2.scores[None])).sum()
    return -matching - keypoint * (f1.scores.sum() + f2.scores.sum())


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("epipolar", "share"), [(False, 0.0), (True, 0.0), (False, 0.3), (True, 0.1)])
def test_gradient_equals_dense_autograd(epipolar: bool, share: float, together: bool) -> None:
    """The dense network and one graph over all pairs, in float64, compared with detached pairs and the sparse head."""
    batch = [[view(0), view(1), view(2)], [view(3), view(4), view(5)]]
    model = network()
    # without penalties the mean reward, and with it the cost of a keypoint, is positive
    weights = replace(WEIGHTS, negative=0.0, keypoint=0.0) if share > 0 else WEIGHTS
    objective = Objective(weights=weights, epipolar=epipolar, share=share)
    sums = accumulate_gradient(model, batch, generators(2), objective, together=together)
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
            depths = () if epipolar else (views[i].depth, views[j].depth)
            R = pair_rewards(
                f1.keypoints, f2.keypoints, views[i].camera, views[j].camera, *depths, options=objective.rewards
            )
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
    # a bias before an instance normalisation has a gradient only by rounding: relative to the largest gradient
    largest = max(float(g.abs().max()) for g in ours.values())
    for name, reference in gradients(model).items():
        mine = ours.get(name, torch.zeros_like(reference))
        torch.testing.assert_close(mine, reference, rtol=1e-7, atol=1e-12 * largest)


@pytest.mark.parametrize("together", [False, True])
def test_images_without_keypoints_are_a_normal_case(together: bool) -> None:
    model = network(torch.float32)
    with torch.no_grad():
        model.unet.path_up[-1].conv[3].bias[-1] = -1e4
    batch = [[view(0, torch.float32), view(1, torch.float32)]]
    totals = Totals(
        *accumulate_gradient(model, batch, generators(1), Objective(weights=WEIGHTS), together=together).tolist()
    )
    assert totals == Totals(0.0, 0.0, 0.0, 1.0, 0.0, 2.0)
    assert all((g == 0).all() for g in gradients(model).values())


@pytest.mark.parametrize("together", [False, True])
def test_bf16_has_the_same_direction(together: bool) -> None:
    batch = [[view(0, torch.float32), view(1, torch.float32)]]
    flat = []
    for bf16 in (False, True):
        model = network(torch.float32)
        accumulate_gradient(model, batch, generators(1), Objective(weights=WEIGHTS), bf16=bf16, together=together)
        flat.append(
            torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])
        )
    assert torch.cosine_similarity(flat[0], flat[1], dim=0) > 0.8


@pytest.mark.parametrize(
    ("objective", "chunk"),
    [
        (Objective(weights=WEIGHTS), 400),
        (Objective(weights=WEIGHTS, epipolar=True, threshold=3.0), 1 << 26),
        (Objective(weights=WEIGHTS, visibility=False), 1 << 26),
        (Objective(weights=replace(WEIGHTS, negative=0.0), share=0.2), 1),
    ],
)
def test_all_at_once_equals_one_by_one(objective: Objective, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tuples of different lengths, with and without depth in one tuple, in chunks of pairs of any size."""
    monkeypatch.setitem(loss._MATCHES_AT_ONCE, "cpu", chunk)
    batch = [[rough(0, 1), rough(1, 2, depth=False)], [rough(k, k) for k in (2, 3, 4, 5)], [rough(6, 3)]]
    batch.append([rough(7, 4, depth=False), rough(8, 5, depth=False)])
    found = []
    for together in (False, True):
        model = network()
        sums = accumulate_gradient(model, batch, generators(4), objective, together=together)
        found.append((sums, flat_gradient(model)))
    (sums, gradient), (sums_at_once, gradient_at_once) = found
    torch.testing.assert_close(sums_at_once, sums, rtol=1e-9, atol=0)
    assert sums[3:].tolist() == [8, sums[4], 9]
    assert (gradient - gradient_at_once).norm() < 1e-9 * gradient.norm()


@pytest.mark.parametrize("together", [False, True])
def test_one_image_of_a_pair_without_keypoints_leaves_the_penalty(
    together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keypoints of the other image have nothing to match; only the cost of each is left."""
    drawn = step.sample_cells

    def none_in_the_first(*arguments: object) -> Sample:
        sample = drawn(*arguments)
        accepted = sample.accepted.clone()
        accepted[0] = False
        sample.log_probability.retain_grad()
        samples.append(replace(sample, accepted=accepted))
        return samples[-1]

    samples: list[Sample] = []
    monkeypatch.setattr(step, "sample_cells", none_in_the_first)
    sums = accumulate_gradient(
        network(), [[view(0), view(1)]], generators(1), Objective(weights=WEIGHTS), together=together
    )
    (sample,) = samples
    assert Totals(*sums.tolist()) == Totals(0.0, 0.0, 0.0, 1.0, float(sample.accepted.sum()), 2.0)
    expected = sample.accepted.double() * -WEIGHTS.keypoint
    assert torch.equal(sample.log_probability.grad, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("bf16", [False, True])
def test_a_gpu_gives_the_gradient_of_a_cpu(bf16: bool) -> None:
    """With the same keypoints, which generators of two devices would not give."""
    batch = [[view(0, torch.float32), view(1, torch.float32)], [view(k, torch.float32) for k in (2, 3, 4)]]
    found = []
    for device in ("cpu", "cuda"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step, "sample_cells", fixed)
            model = network(torch.float32).to(device)
            views = [[v.to(device) for v in each] for each in batch]
            none = [torch.Generator(device) for _ in batch]
            sums = accumulate_gradient(model, views, none, Objective(weights=WEIGHTS), bf16=bf16 and device == "cuda")
        found.append((sums.cpu(), flat_gradient(model).cpu()))
    (sums, gradient), (sums_gpu, gradient_gpu) = found
    assert torch.cosine_similarity(gradient, gradient_gpu, dim=0) > (0.8 if bf16 else 0.999)
    torch.testing.assert_close(sums, sums_gpu, rtol=0.1 if bf16 else 1e-3, atol=0.5 if bf16 else 1e-3)


def fixed(heatmap: torch.Tensor, generators: object) -> Sample:
    """A pixel of each cell, independent of the rounding of the logits."""
    b, h, w = heatmap.shape
    number = torch.arange(h * w // 64, device=heatmap.device)
    points = torch.stack([number % (w // 8) * 8 + number % 5, number // (w // 8) * 8 + number % 3], 1).expand(b, -1, 2)
    return Sample(
        points, torch.ones_like(points[..., 0], dtype=torch.bool), heatmap[:, points[0, :, 1], points[0, :, 0]]
    )


@pytest.mark.gpu
def test_a_step_on_a_gpu_gives_the_same_matches_again() -> None:
    batch = [[view(k, torch.float32).to("cuda") for k in range(3)]]
    model = network(torch.float32).to("cuda")
    sums = [
        accumulate_gradient(
            model, batch, [tuple_generator(0, 0, "keypoints", torch.device("cuda"))], Objective(weights=WEIGHTS)
        )
        for _ in range(2)
    ]
    assert torch.equal(*sums)
