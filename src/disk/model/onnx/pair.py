"""From two images to matches in one graph: a detector twice, sharing its weights, and mutual nearest neighbours."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from disk.model.onnx.trace import trace
from disk.shapes import Float, Int, Tensor

_DYNAMIC = torch.export.Dim.DYNAMIC


class MutualNearest(nn.Module):
    """Unit descriptors (1, N, D) and (1, M, D) -> matches (K, 2) and their distances (K,), as from `disk.match`.

    On ties, it may choose another of several nearest neighbours.
    ratio: threshold of the ratio test, as in `disk.match`; None: no ratio test
    """

    def __init__(self, ratio: float | None) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(
        self, descriptors0: Float[Tensor, "1 n d"], descriptors1: Float[Tensor, "1 m d"]
    ) -> tuple[Int[Tensor, "k 2"], Float[Tensor, " k"]]:
        d0, d1 = descriptors0[0], descriptors1[0]
        n, m = d0.shape[0], d1.shape[0]
        # two rows and columns of dummies, so that there always are a nearest and a second nearest
        squared = F.pad((2 - 2 * d0 @ d1.T).clamp(min=0), (0, 2, 0, 2), value=torch.inf)
        near0, near1 = squared.topk(2, 1, largest=False), squared.topk(2, 0, largest=False)
        nearest0, nearest1 = near0.indices[:n, 0], near1.indices[0]
        keep = (nearest1[nearest0] == torch.arange(n)) & (nearest0 < m)
        if self.ratio is not None:
            passes0 = near0.values[:n, 0] < self.ratio**2 * near0.values[:n, 1]
            passes1 = near1.values[0] < self.ratio**2 * near1.values[1]
            keep &= passes0 & passes1[nearest0]
        (i,) = torch.nonzero(keep, as_tuple=True)
        j = nearest0[i]
        return torch.stack([i, j], 1), torch.linalg.vector_norm(d0[i] - d1[j], dim=1)


def pair_graph(detector: Any, ratio: float | None) -> Any:
    """The ONNX model for an image pair, from that of a detector; names get the prefixes `first_` and `second_`."""
    from onnx import compose, helper

    example = torch.eye(detector.graph.output[2].type.tensor_type.shape.dim[2].dim_value)[None]
    shapes = {1: _DYNAMIC}, {1: _DYNAMIC}
    names = ["first_descriptors", "second_descriptors"]
    examples = example[:, :5], example[:, :7]
    matcher = trace(MutualNearest(ratio).eval(), examples, shapes, names, ["matches", "distances"], optimize=True)
    matcher.graph.CopyFrom(compose.add_prefix_graph(matcher.graph, "match_"))
    renamed = {"match_" + name: name for name in [*names, "matches", "distances"]}
    for node in matcher.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    images = [
        compose.add_prefix_graph(detector.graph, prefix, rename_initializers=False) for prefix in ("first_", "second_")
    ]
    for value in matcher.graph.output:
        value.name = renamed[value.name]
    for image in images:
        image.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    joined = helper.make_graph(
        [*images[0].node, *images[1].node, *matcher.graph.node],
        "pair",
        [image.input[0] for image in images],
        [*(image.output[0] for image in images), *matcher.graph.output],
        [*detector.graph.initializer, *matcher.graph.initializer],
    )
    return helper.make_model(joined, opset_imports=detector.opset_import, ir_version=detector.ir_version)
