"""From heatmap to keypoints: non-maximum suppression and subpixel peaks for inference, grid sampling for training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from disk.model.canvas import Canvas
from disk.shapes import Bool, Float, Int, Tensor

CELL = 8  # side of a cell of the grid that training samples keypoints from, in pixels


def nms(
    heatmap: Float[Tensor, "h w"], window: int = 5, n: int | None = None
) -> tuple[Int[Tensor, "k 2"], Float[Tensor, " k"]]:
    """Local maxima above 0, as pixels (x, y), best first: each is the first arg-max of the window around it.

    Equal scores are in reading order: by row, then column.
    window: side of the window in pixels, odd; clipped at the border
    n: keep the n best, or all if there are fewer; None: all
    """
    reach = window // 2
    height, width = heatmap.shape
    padded = F.pad(heatmap[None], (reach,) * 4, value=-math.inf)[0]
    peak = heatmap > 0
    if reach:
        # On a plateau only the first pixel in reading order is a peak: it is greater than all pixels before it, and not
        # less than those after it. Before it are the pixels to its left and the rows above, as wide as the window.
        beside = _running_maximum(padded[reach:-reach], 1, reach)
        rows = _running_maximum(_running_maximum(padded, 1, window), 0, reach)
        peak &= heatmap > torch.maximum(rows[:height], beside[:, :width])
        peak &= heatmap >= torch.maximum(rows[-height:], beside[:, -width:])
    y, x = torch.nonzero(peak, as_tuple=True)
    scores = heatmap[y, x]
    order = torch.argsort(scores, descending=True, stable=True)[:n]
    return torch.stack([x[order], y[order]], 1), scores[order]


def _running_maximum(x: Tensor, axis: int, count: int) -> Tensor:
    """The maximum of each `count` neighbours along an axis, which gets shorter by count - 1."""
    reached = 1
    while reached < count:
        step = min(reached, count - reached)
        size = x.shape[axis] - step
        x = torch.maximum(x.narrow(axis, 0, size), x.narrow(axis, step, size))
        reached += step
    return x


def best_allowed(
    points: Int[Tensor, "k 2"], scores: Float[Tensor, " k"], canvas: Canvas, n: int | None
) -> tuple[Int[Tensor, "m 2"], Float[Tensor, " m"]]:
    """The n best points by score that lie on the image, not on the padding, and where its mask is not 0."""
    height, width = canvas.placement.height, canvas.placement.width
    order = torch.argsort(scores, descending=True, stable=True)
    x, y = points[order].unbind(1)
    allowed = (x < width) & (y < height)
    if canvas.mask is not None:
        allowed &= canvas.mask.to(points.device)[y.clamp(max=height - 1), x.clamp(max=width - 1)]
    order = order[allowed][:n]
    return points[order], scores[order]


def refine(heatmap: Float[Tensor, "h w"], points: Int[Tensor, "k 2"]) -> Float[Tensor, "k 2"]:
    """Move pixels (x, y) to the vertex of the parabola through them and both neighbours, along x and along y.

    They move by at most half a pixel, and not along an axis where they are at the border or below a neighbour.
    """
    x, y = points.unbind(1)
    height, width = heatmap.shape
    middle, moved = heatmap[y, x].float(), []
    for at, size, dx, dy in ((x, width, 1, 0), (y, height, 0, 1)):
        before, after = (
            heatmap[(y + sign * dy).clamp(0, height - 1), (x + sign * dx).clamp(0, width - 1)].float()
            for sign in (-1, 1)
        )
        curvature = 2 * middle - before - after
        is_peak = (at > 0) & (at < size - 1) & (middle >= before) & (middle >= after) & (curvature > 0)
        moved.append(at + torch.where(is_peak, (after - before) / (2 * curvature), 0.0))
    return torch.stack(moved, 1)


@dataclass(frozen=True)
class Sample:
    """A pixel (x, y) drawn in each cell of a grid over each image, in reading order of the cells.

    points: the pixels
    accepted: whether the pixel is a keypoint
    log_probability: of drawing and accepting the pixel, with gradient
    """

    points: Int[Tensor, "b cells 2"]
    accepted: Bool[Tensor, "b cells"]
    log_probability: Float[Tensor, "b cells"]


def sample_cells(
    heatmap: Float[Tensor, "b h w"],
    generators: Sequence[tuple[torch.Generator | None, int]],
    cell: int = CELL,
) -> Sample:
    """Draw random keypoints, at most one per cell, for all images at once.

    In each cell, propose a pixel with the softmax over the cell's logits and accept it with the sigmoid of its logit
    (Tyszkiewicz et al. 2020, section 3.1).
    heatmap: logits; height and width are multiples of `cell`
    generators: random generators, each with the number of successive images that it is for
    cell: side of a cell in pixels
    """
    batch, height, width = heatmap.shape
    rows, columns = height // cell, width // cell
    cells = heatmap.reshape(batch, rows, cell, columns, cell).transpose(2, 3).reshape(batch, -1, cell * cell)
    with torch.no_grad():
        # Gumbel-max draws from the softmax without forming it
        noise, uniform = torch.empty_like(cells), torch.empty_like(cells[..., 0])
        first = 0
        for generator, count in generators:
            noise[first : first + count].exponential_(generator=generator)
            uniform[first : first + count].uniform_(generator=generator)
            first += count
        proposed = (cells - noise.log_()).argmax(2, keepdim=True)
    logit = cells.gather(2, proposed)[..., 0]
    accepted = uniform < torch.sigmoid(logit.detach())
    log_probability = (logit - torch.logsumexp(cells, 2)) + F.logsigmoid(logit)

    number, within = torch.arange(rows * columns, device=cells.device), proposed[..., 0]
    x = number % columns * cell + within % cell
    y = number // columns * cell + within // cell
    return Sample(torch.stack([x, y], 2), accepted, log_probability)


def sample_grid(
    heatmap: Float[Tensor, "b h w"], generator: torch.Generator | None = None
) -> list[tuple[Int[Tensor, "k 2"], Float[Tensor, " k"]]]:
    """Draw the keypoints (x, y) of each image with `sample_cells`; also their log-probabilities, with gradient."""
    sample = sample_cells(heatmap, [(generator, len(heatmap))])
    images = zip(sample.points, sample.log_probability, sample.accepted, strict=True)
    return [(points[accepted], log_probability[accepted]) for points, log_probability, accepted in images]
