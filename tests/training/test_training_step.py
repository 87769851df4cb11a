"""The gradient of a step: of the network and all pairs, compared with dense autograd; all at once and one by one."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from itertools import combinations

import pytest
import torch
from torch.nn.functional import normalize

from disk.datasets.records import PosedImage
from disk.features import Features
from disk.geometry.camera import Camera
from disk.model.detection import Sample, sample_grid
from disk.model.disk import DISK
from disk.rewards.matches import pair_rewards
from disk.training import loss, step
from disk.training.schedule import Weights
from disk.training.step import Objective, Totals, accumulate_gradient, tuple_generator

SIZE = 32
WEIGHTS = Weights(positive=1.0, negative=-0.2, keypoint=-0.01, theta=20.0)


def plain_loss(f1: Features, f2: Features, rewards: torch.Tensor, theta: float, keypoint: float) -> torch.Tensor:
    """The loss as written in the paper."""
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


def flat_gradient(model: DISK) -> torch.Tensor:
    """Of all parameters; 0 for those without."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])


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


@pytest.mark.parametrize("epipolar", [False, True])
def test_matches_are_correct_within_the_threshold(epipolar: bool) -> None:
    """The cameras are 0.1 apart along x, which shifts the wall by 30 * 0.1 / 2 pixels; the match is 1.2 px off in y."""
    one, other = torch.tensor([[10.0, 10.0]]), torch.tensor([[11.5, 11.2]])
    views = view(0, torch.float32), view(1, torch.float32)
    depths = () if epipolar else [v.depth for v in views]
    for threshold, reward in ((1.1, WEIGHTS.negative), (1.3, WEIGHTS.positive)):
        options = Objective(weights=WEIGHTS, threshold=threshold).rewards
        found = pair_rewards(one, other, *[v.camera for v in views], *depths, options=options)
        assert found.item() == pytest.approx(reward)


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


def rough(number: int, seed: int, depth: bool = True) -> PosedImage:
    """A view with some wrong or unknown depths."""
    plain = view(number)
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.tensor([1.0, 1.0, 1.03, 1.2, 0.0])[torch.randint(0, 5, (SIZE, SIZE), generator=generator)]
    return replace(plain, depth=plain.depth * wrong if depth else None)


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


def test_random_numbers_of_a_tuple_do_not_depend_on_the_others() -> None:
    """The gradient of a batch is the sum of those of its tuples, each with its own generator."""
    batch = [[view(0), view(1)], [view(2), view(3), view(4)], [view(5), view(6)]]
    together, apart = network(), network()
    sums = accumulate_gradient(together, batch, generators(3), Objective(weights=WEIGHTS), together=True)
    parts = [
        accumulate_gradient(apart, [views], [generator], Objective(weights=WEIGHTS), together=True)
        for views, generator in zip(batch, generators(3), strict=True)
    ]
    torch.testing.assert_close(sums, torch.stack(parts).sum(0), rtol=1e-9, atol=0)
    difference = flat_gradient(together) - flat_gradient(apart)
    assert difference.norm() < 1e-9 * flat_gradient(apart).norm()


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


@pytest.mark.parametrize(("count", "price"), [(4, 0.0), (5, 0.0), (7, 0.4), (10, 1.0), (16, 1.0)])
def test_the_cost_of_a_keypoint_rises_to_the_mean_reward_and_no_further(count: int, price: float) -> None:
    """5 are free; the cost is full from 10 on. Padding does not count, and a negative mean costs nothing."""
    rewards = torch.full((3, 16), 100.0)
    rewards[0, :count] = torch.linspace(0, 4, count)
    rewards[1, :count] = -1.0
    image = torch.tensor([0, 1]).repeat_interleave(count)
    slot = torch.arange(count).repeat(2)
    keypoints = step._Keypoints([count, count, 0], image, slot, slot, torch.zeros(2 * count, 2, dtype=torch.int64))
    found = step._price(rewards, keypoints, 5.0)
    torch.testing.assert_close(found, torch.tensor([[2 * price], [0.0], [0.0]]))


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


def test_a_tuple_without_images_adds_nothing() -> None:
    """In a batch with others, on one of several processes; a process with no images adds nothing either."""
    alone, beside = network(), network()
    sums = accumulate_gradient(alone, [[view(0), view(1)]], generators(1), Objective(weights=WEIGHTS))
    two = accumulate_gradient(
        beside, [[view(0), view(1)], []], [*generators(1), torch.Generator()], Objective(weights=WEIGHTS)
    )
    assert torch.equal(sums, two)
    assert torch.equal(flat_gradient(alone), flat_gradient(beside))


def test_the_cost_of_a_single_keypoint_is_its_reward() -> None:
    rewards = torch.tensor([[3.0, 100.0]])
    one = torch.zeros(1, dtype=torch.int64)
    keypoints = step._Keypoints([1], one, one, one, torch.zeros(1, 2, dtype=torch.int64))
    assert step._price(rewards, keypoints, 0.5).tolist() == [[3.0]]


def test_by_default_matches_are_judged_by_depth_and_visibility() -> None:
    options = Objective(weights=WEIGHTS).rewards
    assert (options.epipolar, options.visibility, options.threshold) == (False, True, 1.5)
    assert (options.positive, options.negative) == (WEIGHTS.positive, WEIGHTS.negative)


@pytest.mark.parametrize("record", [Objective(weights=WEIGHTS), Totals(0.0, 0.0, 0.0, 0.0, 0.0, 0.0), WEIGHTS])
def test_records_of_a_step_are_never_changed(record: object) -> None:
    with pytest.raises(FrozenInstanceError):
        record.share = 1.0  # type: ignore[attr-defined]


def test_the_random_numbers_of_a_tuple_are_independent() -> None:
    """Another seed, number or purpose gives other numbers, the same ones the same: a resumed run repeats none."""
    device = torch.device("cpu")
    kinds = [(s, n, p) for s in (0, 1) for n in (0, 1) for p in ("keypoints", "augmentation")]
    drawn = {kind: torch.rand(4, generator=tuple_generator(*kind, device)).tolist() for kind in kinds}
    assert len({tuple(numbers) for numbers in drawn.values()}) == 8
    for kind, numbers in drawn.items():
        assert torch.rand(4, generator=tuple_generator(*kind, device)).tolist() == numbers


def test_without_a_share_keypoints_are_free() -> None:
    """As where every cell may have one, although their mean reward is positive."""
    found = []
    for share in (0.0, 1.0):
        model = network()
        objective = Objective(weights=replace(WEIGHTS, negative=0.0, keypoint=0.0), share=share)
        sums = accumulate_gradient(model, [[view(0), view(1)]], generators(1), objective)
        assert Totals(*sums.tolist()).reward > 0
        found.append(flat_gradient(model))
    assert torch.equal(*found)


@pytest.mark.parametrize("together", [False, True])
def test_a_keypoint_of_unknown_depth_is_never_correct(together: bool) -> None:
    """Otherwise it would project to the other camera's epipole, which is within 40 pixels of any keypoint."""
    one, other = view(0), view(1)
    camera = replace(other.camera, t=torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    views = [replace(one, depth=torch.zeros_like(one.depth)), replace(other, camera=camera)]
    objective = Objective(weights=WEIGHTS, threshold=40.0, visibility=False)
    for batch, right in ((views, False), ([one, views[1]], True)):
        sums = accumulate_gradient(network(), [batch], generators(1), objective, together=together)
        assert (Totals(*sums.tolist()).right > 0) == right
