"""Drawing artifacts: the keypoints of a photo and the matches of two photos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from disk.errors import ArtifactError, ImageError
from disk.images.orientation import upright_points
from disk.images.reading import Upright, read_upright
from disk.storage.artifacts import FeatureStore, MatchStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_keypoints_of(features: FeatureStore, paths: dict[str, Path], name: str) -> Callable[[Figure], None]:
    """A function that draws the keypoints of an image over it; it raises ImageError if the image cannot be read.

    paths: image files by name
    """

    def draw(figure: Figure) -> None:
        from disk.viewing.keypoints import draw_keypoints

        image = _read(paths, name)
        draw_keypoints(figure, image.pixels, _shown(features, image, name), features.scores(name), name)

    return draw


def draw_matches_of(
    features: FeatureStore,
    matches: MatchStore,
    inliers: MatchStore | None,
    paths: dict[str, Path],
    pair: tuple[str, str],
) -> Callable[[Figure], None]:
    """A function that draws the matches of a pair, coloured by whether they are verified.

    It raises ImageError if an image cannot be read, ArtifactError if the matches are not of the current features.
    paths: image files by name
    """

    def draw(figure: Figure) -> None:
        from disk.viewing import matches as drawing

        images = (_read(paths, pair[0]), _read(paths, pair[1]))
        keypoints = [_shown(features, image, name) for image, name in zip(images, pair, strict=True)]
        found = matches[pair]
        if any((row >= len(points)).any() for row, points in zip(found, keypoints, strict=True)):
            raise ArtifactError(f"the matches of {' and '.join(pair)} are out of date; run `disk match` again")
        everything = np.ones(found.shape[1], bool)
        if inliers is None:
            groups = [drawing.Group("matches, not verified yet", drawing.NEUTRAL, everything)]
        else:
            good = drawing.verified(found, inliers[pair]) if pair in inliers else ~everything
            groups = [
                drawing.Group("not verified", drawing.BAD, ~good),
                drawing.Group("verified", drawing.GOOD, good),
            ]
        ends = (keypoints[0][found[0]], keypoints[1][found[1]])
        drawing.draw_matches(figure, (images[0].pixels, images[1].pixels), ends, groups, pair)

    return draw


def _read(paths: dict[str, Path], name: str) -> Upright:
    if name not in paths:
        raise ImageError(f"{name} is not in the image folder")
    return read_upright(paths[name])


def _shown(features: FeatureStore, image: Upright, name: str) -> np.ndarray:
    """Keypoints in pixels of the upright image."""
    return upright_points(features.keypoints(name), image.orientation, image.stored_size)
