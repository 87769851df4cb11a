"""Images of a wall, a network in double precision, and its gradients."""

from __future__ import annotations

from dataclasses import replace

import torch

from disk.datasets.records import PosedImage
from disk.geometry.camera import Camera
from disk.model.disk import DISK
from disk.training.schedule import Weights
from disk.training.step import tuple_generator

SIZE = 32
WEIGHTS = Weights(positive=1.0, negative=-0.2, keypoint=-0.01, theta=20.0)


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


def rough(number: int, seed: int, depth: bool = True) -> PosedImage:
    """A view with some wrong or unknown depths."""
    plain = view(number)
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.tensor([1.0, 1.0, 1.03, 1.2, 0.0])[torch.randint(0, 5, (SIZE, SIZE), generator=generator)]
    return replace(plain, depth=plain.depth * wrong if depth else None)
