"""The first half of the demo: a real stereo pair with measured disparities (Middlebury 2014, motorcycle).

Scharstein et al., "High-resolution stereo datasets with subpixel-accurate ground truth", GCPR 2014.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from disk.features import Features
from disk.matching.api import match
from disk.model.disk import DISK
from disk.pipeline.demo.photos import load_photo, photo_folder
from disk.shapes import Float
from disk.viewing import canvas
from disk.viewing import matches as drawing
from disk.viewing.keypoints import draw_keypoints

TOLERANCE = 3.0  # pixels


@dataclass(frozen=True)
class StereoResult:
    """The counts and pictures of the stereo pair.

    truth: number of matches with a measured disparity
    right: number of those that agree with it
    error: median distance of the correct matches from the true position, in pixels; nan without any
    """

    keypoints: tuple[int, int]
    matches: int
    truth: int
    right: int
    error: float
    matches_picture: Path
    keypoints_picture: Path


def run_stereo(model: DISK, folder: Path, n: int) -> StereoResult:
    """Detect and match the pair, compare with the disparities, save pictures to a folder."""
    left, right = load_photo("motorcycle_left.png"), load_photo("motorcycle_right.png")
    first, second = (features.cpu() for features in model.detect([left, right], n=n))
    found = match(first, second, ratio=None).indices.numpy()
    ends = (first.keypoints.numpy()[found[:, 0]], second.keypoints.numpy()[found[:, 1]])
    errors = disparity_errors(*ends, load_disparity())
    known, good = np.isfinite(errors), errors <= TOLERANCE
    return StereoResult(
        keypoints=(len(first), len(second)),
        matches=len(found),
        truth=int(known.sum()),
        right=int(good.sum()),
        error=float(np.median(errors[good])) if good.any() else float("nan"),
        matches_picture=draw_checked(
            (left, right), ends, errors, ("motorcycle, left", "motorcycle, right"), folder / "stereo-matches.jpg"
        ),
        keypoints_picture=_draw_keypoints(left, first, folder / "stereo-keypoints.jpg"),
    )


def load_disparity() -> Float[np.ndarray, "h w"]:
    """The disparity of each pixel of the left image; not finite where it was not measured."""
    with np.load(photo_folder() / "motorcycle_disp.npz") as archive:
        return archive["arr_0"]


def disparity_errors(
    left: Float[np.ndarray, "k 2"], right: Float[np.ndarray, "k 2"], disparity: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, " k"]:
    """The distance of each match's right end from the true position of its left end, in pixels; nan where unknown.

    left, right: ends of the matches, in pixels
    disparity: of the left image, whose point (x, y) is (x - disparity, y) in the right one; nan or inf where unknown;
        read at the pixel nearest to the left end
    """
    height, width = disparity.shape
    columns = np.clip(np.rint(left[:, 0]).astype(int), 0, width - 1)
    rows = np.clip(np.rint(left[:, 1]).astype(int), 0, height - 1)
    shift = disparity[rows, columns].astype(np.float64)
    known = np.isfinite(shift)
    expected = left - np.stack([np.where(known, shift, 0), np.zeros(len(left))], axis=1)
    return np.where(known, np.linalg.norm(right - expected, axis=1), np.nan)


def draw_checked(
    images: tuple[np.ndarray, np.ndarray],
    ends: tuple[np.ndarray, np.ndarray],
    errors: Float[np.ndarray, " k"],
    names: tuple[str, str],
    path: Path,
) -> Path:
    """Save a picture of matches, coloured by their errors in pixels (nan: unknown)."""
    known, good = np.isfinite(errors), errors <= TOLERANCE
    figure = canvas.new_figure()
    groups = [
        drawing.Group("without ground truth", drawing.NEUTRAL, ~known),
        drawing.Group(f"off by more than {TOLERANCE:g} px", drawing.BAD, known & ~good),
        drawing.Group(f"within {TOLERANCE:g} px of the truth", drawing.GOOD, good),
    ]
    drawing.draw_matches(figure, images, ends, groups, names)
    return canvas.save(figure, path)


def _draw_keypoints(image: np.ndarray, features: Features, path: Path) -> Path:
    figure = canvas.new_figure()
    draw_keypoints(figure, image, features.keypoints.numpy(), features.scores.numpy(), "motorcycle, left")
    return canvas.save(figure, path)
