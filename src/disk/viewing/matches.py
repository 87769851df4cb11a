"""Pictures of the matches between two images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from disk.progress import counted
from disk.shapes import Bool, Float, Int, UInt8
from disk.viewing import canvas

# distinguishable for readers with red-green colour blindness
GOOD = "#00e0c6"
BAD = "#ff4d2e"
NEUTRAL = "#ffd23f"

MAX_LINES = 180  # more would hide the images
GAP = 12  # pixels between the two images


@dataclass(frozen=True)
class Group:
    """Matches drawn in one colour.

    label: their name in the legend
    members: which of the matches belong to the group
    """

    label: str
    colour: str
    members: Bool[np.ndarray, " k"]


def draw_matches(
    figure: Figure,
    images: tuple[UInt8[np.ndarray, "h0 w0 3"], UInt8[np.ndarray, "h1 w1 3"]],
    ends: tuple[Float[np.ndarray, "k 2"], Float[np.ndarray, "k 2"]],
    groups: Sequence[Group],
    names: tuple[str, str],
    max_lines: int = MAX_LINES,
) -> None:
    """Draw two images side by side at the same height, with a dot for every match and lines for some.

    ends: keypoints in pixels of each image; row k of both is match k
    groups: later ones are drawn on top
    max_lines: maximum number of lines, shared among the groups by size and spread over the images
    """
    height = canvas.fit(sum(image.shape[1] / image.shape[0] for image in images) * 1000, 1000, 1860, 1000)[1]
    boxes = [max(1.0, image.shape[1] / image.shape[0] * height) for image in images]
    total = max(sum(boxes) + GAP, 900) + 2 * canvas.MARGIN
    top = canvas.HEADER
    canvas.set_size(figure, total, top + height + canvas.LEGEND + canvas.MARGIN)
    lefts = [canvas.MARGIN, canvas.MARGIN + boxes[0] + GAP]
    for image, left, width in zip(images, lefts, boxes, strict=True):
        canvas.show_image(canvas.add_axes(figure, left, top, width, height), image, width)

    # axes over both images, in pixels of the picture
    sheet = canvas.add_axes(figure, 0, top, total, height)
    sheet.set(xlim=(0, total), ylim=(height, 0))
    placed = [
        np.array([left, 0]) + (points + 0.5) * (height / image.shape[0])
        for image, points, left in zip(images, ends, lefts, strict=True)
    ]
    shares = share_lines([int(group.members.sum()) for group in groups], max_lines)
    drawn = 0
    for group, share in zip(groups, shares, strict=True):
        start, end = (points[group.members] for points in placed)
        chosen = spread(np.hstack([start, end]), share)
        drawn += len(chosen)
        segments = np.stack([start[chosen], end[chosen]], axis=1)
        for colour, width, alpha in (("black", 2.6, 0.35), (group.colour, 1.3, 0.9)):
            width = canvas.points(width)
            sheet.add_collection(LineCollection(list(segments), colors=colour, linewidths=width, alpha=alpha))
        for points in (start, end):
            sheet.scatter(
                points[:, 0], points[:, 1], s=canvas.points(5) ** 2, c=group.colour, edgecolors="black", lw=0.3
            )
    canvas.add_legend(figure, [(group.colour, f"{group.members.sum()} {group.label}") for group in reversed(groups)])
    count = len(ends[0])
    thinned = f" · {drawn} lines drawn, spread evenly; a dot for every match" if drawn < count else ""
    canvas.add_title(figure, f"{names[0]}  –  {names[1]}", f"{counted(count, 'match', 'matches')}{thinned}")


def verified(matches: Int[np.ndarray, "2 k"], inliers: Int[np.ndarray, "2 m"]) -> Bool[np.ndarray, " k"]:
    """Mask of the matches that are among the inliers; columns are pairs of feature indices."""
    pairs = set(map(tuple, inliers.T.tolist()))
    return np.array([tuple(pair) in pairs for pair in matches.T.tolist()], dtype=bool)


def share_lines(counts: Sequence[int], most: int) -> list[int]:
    """Share `most` lines among groups in proportion to their sizes; every non-empty group gets at least one."""
    total = sum(counts)
    if total <= most:
        return list(counts)
    return [min(count, max(1, round(most * count / total))) if count else 0 for count in counts]


def spread(points: Float[np.ndarray, "n d"], count: int) -> Int[np.ndarray, " m"]:
    """Indices of `count` points that cover the set evenly; all if there are fewer.

    Farthest-point sampling (Gonzalez 1985), starting at the point nearest the mean.
    """
    if count >= len(points):
        return np.arange(len(points))
    if count == 0:
        return np.arange(0)
    chosen = [int(np.argmin(((points - points.mean(0)) ** 2).sum(1)))]
    distance = np.full(len(points), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(np.argmax(distance)))
    return np.array(chosen)
