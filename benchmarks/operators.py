"""Operators of a training step, counted on a CPU: how many kernels a GPU would have to launch.

    python benchmarks/operators.py [--triplets 4] [--height 96] [--width 128]

A GPU is idle while it waits for launches of small kernels. Launches can be counted without a GPU, because torch's
profiler sees the same operators on a CPU. Views and memory allocations do not count. Block sizes are those of a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
import tyro

from disk.datasets.records import PosedImage
from disk.geometry.camera import Camera
from disk.matching import distribution
from disk.model import strips
from disk.model.disk import DISK
from disk.rewards import matches
from disk.training.loss import PairGradients
from disk.training.schedule import weights_at
from disk.training.step import Objective, accumulate_gradient, tuple_generator

# kernel launches in `disk.training.fused.pair_gradients`, which replace operators
FUSED_LAUNCHES = 6
_FREE = {
    "_conj", "_local_scalar_dense", "_reshape_alias", "_to_copy", "_unsafe_view", "alias", "as_strided",
    "as_strided_", "chunk", "contiguous", "detach", "detach_", "diagonal", "empty", "empty_like", "empty_strided",
    "expand", "expand_as", "flatten", "is_nonzero", "item", "lift_fresh", "mT", "movedim", "narrow", "new_empty",
    "numpy_T", "permute", "reshape", "resize_", "resolve_conj", "resolve_neg", "result_type", "select", "set_",
    "slice", "split", "split_with_sizes", "squeeze", "swapaxes", "t", "to", "transpose", "type_as", "unbind",
    "unflatten", "unfold", "unsafe_split", "unsqueeze", "view", "view_as",
}  # fmt: skip


def count(work: Callable[[], object]) -> Counter[str]:
    """Count the computing operators in a call by name; a composite operator counts as its parts."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    found: Counter[str] = Counter()
    for event in profile.events():
        if event.cpu_parent is None:
            found.update(_operators(event))
    return found


def _operators(event: Any) -> list[str]:
    inner = [name for child in event.cpu_children for name in _operators(child)]
    name = event.name.removeprefix("aten::")
    return inner or ([name] if name != event.name and name not in _FREE else [])


def as_on_a_gpu(stack: ExitStack) -> None:
    """Use the block sizes of a GPU until the stack is closed."""
    for limits in (distribution._BLOCK, matches._AT_ONCE, strips.STRIP_ELEMENTS):
        stack.enter_context(mock.patch.dict(limits, cpu=limits["other"]))


def scenes(triplets: int, height: int, width: int) -> list[list[PosedImage]]:
    """Triplets of noise on a wall at depth 2, seen by cameras in a row."""
    generator = torch.Generator().manual_seed(0)
    K = torch.tensor([[500.0, 0, width / 2], [0, 500.0, height / 2], [0, 0, 1]])
    cameras = [Camera(K, torch.eye(3), torch.tensor([0.1 * k, 0.0, 0.0])) for k in range(3)]
    depth = torch.full((height, width), 2.0)
    return [
        [PosedImage(torch.rand(3, height, width, generator=generator), camera, depth, "wall") for camera in cameras]
        for _ in range(triplets)
    ]


def count_step(
    batch: list[list[PosedImage]], model: DISK, together: bool = True, fused: bool = False, bf16: bool = False
) -> Counter[str]:
    """Count the operators of one step.

    fused: count the launches of the matching kernels instead of running operators.
    """

    def launched(d1: torch.Tensor, d2: torch.Tensor, *_: object) -> PairGradients:
        outs = [torch.zeros_like(d1), torch.zeros_like(d2), d1.new_zeros(d1.shape[:2]), d2.new_zeros(d2.shape[:2])]
        return PairGradients(*outs, *d1.new_zeros(2, len(d1)))

    def step() -> None:
        device = next(model.parameters()).device
        generators = [tuple_generator(0, number, "keypoints", device) for number in range(len(batch))]
        objective = Objective(weights=weights_at("default", 5), share=0.4)
        accumulate_gradient(model, batch, generators, objective, bf16=bf16, together=together)

    with ExitStack() as stack:
        as_on_a_gpu(stack)
        if fused:
            stack.enter_context(mock.patch("disk.training.step.pair_gradients", launched))
        counted = count(step)
    return counted + Counter({"kernels of matching": FUSED_LAUNCHES}) if fused else counted


def main(triplets: int = 4, height: int = 96, width: int = 128) -> None:
    """Print the number of operators in a step, which hardly depends on the image size.

    Args:
        triplets: number of triplets per step
        height: height of the images, a multiple of 16
        width: width of the images, a multiple of 16
    """
    batch, model = scenes(triplets, height, width), DISK()
    for name, options in {
        "tuple by tuple, pair by pair": {"together": False},
        "together": {},
        "together, with the kernels of matching": {"fused": True},
    }.items():
        counted = count_step(batch, model, **options)
        most = ", ".join(f"{operator} {number}" for operator, number in counted.most_common(8))
        print(f"{name}: {counted.total()} operators ({most})")


if __name__ == "__main__":
    tyro.cli(main)
