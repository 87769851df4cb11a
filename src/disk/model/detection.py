"""From a heatmap to keypoints: non-maximum suppression and subpixel peaks for inference, grid sampling for training."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from disk.shapes import Float, Int, Tensor

CELL = 8  # side of a cell of the grid that training samples from, in pixels


def nms(
    heatmap: Float[Tensor, "h w"], window: int = 5, n: int | None = None
) -> tuple[Int[Tensor, "k 2"], Float[Tensor, " k"]]:
    """Local maxima above 0: pixels (x, y) that are the first arg-max of the window around them, best first.

    `window` is odd, in pixels, and is cut at the border. Equal scores are ordered by row, then column. With `n`,
    exactly the n best, or all when there are fewer.
    """
    width = heatmap.shape[1]
    reach = window // 2
    rows = F.max_pool2d(heatmap[None], (1, window), 1, (0, reach))
    highest = F.max_pool2d(rows, (window, 1), 1, (reach, 0))[0]
    y, x = torch.nonzero((heatmap == highest) & (heatmap > 0), as_tuple=True)
    scores = heatmap[y, x]

    # in a plateau only the first pixel of a window, in reading order, is its arg-max
    first = torch.ones_like(scores, dtype=torch.bool)
    for dy in range(-reach, 1):
        for dx in range(-reach, reach + 1 if dy < 0 else 0):
            ny, nx = y + dy, x + dx
            inside = (ny >= 0) & (nx >= 0) & (nx < width)
            first &= ~(inside & (heatmap[ny.clamp(min=0), nx.clamp(0, width - 1)] == scores))
    x, y, scores = x[first], y[first], scores[first]

    order = torch.argsort(scores, descending=True, stable=True)[:n]
    return torch.stack([x[order], y[order]], 1), scores[order]


def refine(heatmap: Float[Tensor, "h w"], points: Int[Tensor, "k 2"]) -> Float[Tensor, "k 2"]:
    """Pixels (x, y) moved to the vertices of the parabolas through them and both neighbours, along x and along y.

    At most half a pixel; not along an axis where a pixel is at the border, or below a neighbour.
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


def sample_grid(
    heatmap: Float[Tensor, "b h w"], generator: torch.Generator | None = None, cell: int = CELL
) -> list[tuple[Int[Tensor, "k 2"], Float[Tensor, " k"]]]:
    """Random keypoints (x, y) and the log-probability of each, with gradient: at most one in a cell.

    In each cell a pixel is proposed by a softmax over its logits and accepted with the sigmoid of its own logit
    (Tyszkiewicz et al. 2020, section 3.1). Height and width are multiples of `cell`.
    """
    batch, height, width = heatmap.shape
    rows, columns = height // cell, width // cell
    cells = heatmap.reshape(batch, rows, cell, columns, cell).permute(0, 1, 3, 2, 4).reshape(-1, cell * cell)
    with torch.no_grad():
        # Gumbel-max draws from the softmax without forming it
        noise = torch.empty_like(cells).exponential_(generator=generator).log_()
        proposed = (cells - noise).argmax(1, keepdim=True)
        uniform = torch.rand(cells.shape[0], generator=generator, device=cells.device, dtype=cells.dtype)
    logit = cells.gather(1, proposed)[:, 0]
    accepted = uniform < torch.sigmoid(logit.detach())
    log_probability = (logit - torch.logsumexp(cells, 1)) + F.logsigmoid(logit)

    cell_index = torch.arange(cells.shape[0], device=cells.device) % (rows * columns)
    y = cell_index // columns * cell + proposed[:, 0] // cell
    x = cell_index % columns * cell + proposed[:, 0] % cell
    points = torch.stack([x, y], 1).view(batch, -1, 2)
    accepted, log_probability = accepted.view(batch, -1), log_probability.view(batch, -1)
    return [(points[i][accepted[i]], log_probability[i][accepted[i]]) for i in range(batch)]
