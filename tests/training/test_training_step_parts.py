"""Random numbers, cost of a keypoint, correct matches and records of a step."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from step_scene import WEIGHTS, flat_gradient, generators, network, view

from disk.rewards.matches import pair_rewards
from disk.training import step
from disk.training.step import Objective, Totals, accumulate_gradient, tuple_generator


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


@pytest.mark.parametrize("before", [True, False])
def test_convolutions_are_measured_during_the_step_alone(before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)
    monkeypatch.setattr(
        step, "_accumulate", lambda *others: seen.append(torch.backends.cudnn.benchmark) or torch.zeros(6)
    )
    accumulate_gradient(network(), [[view(0), view(1)]], generators(1), Objective(weights=WEIGHTS))
    assert (seen, torch.backends.cudnn.benchmark) == ([True], before)
