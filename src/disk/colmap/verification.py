"""Geometric verification of matches by pycolmap, as in COLMAP's matcher, with an a-contrario test and a watermark test.

The a-contrario test accepts a pair only if its number of false alarms (NFA) is below 1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Sequence
from functools import lru_cache

import numpy as np
import pycolmap

from disk.ahead import map_ahead
from disk.devices import usable_cores
from disk.geometry.chance import chance_of_inlier, log10_false_alarms

_AHEAD = 4  # pairs waiting per thread
_STILL = 0.02  # baseline over distance; with less, nothing can be triangulated
_UNMOVED, _SUSPECT = 1.0, 0.2  # maximum shift in pixels; share of the inliers
_Config = pycolmap.TwoViewGeometryConfiguration
_View = tuple[pycolmap.Camera, np.ndarray]


def verify_pairs(
    database: pycolmap.Database,
    pairs: Sequence[tuple[int, int]],
    max_error: float,
    min_inliers: int,
    seed: int,
) -> Generator[np.ndarray, None, None]:
    """Verify pairs of image ids, write their two-view geometries to the database, and yield the inliers of each pair.

    Inliers are (2, K) int64, a subset of the columns of the matches, in the order of the pairs. A pair has none if it
    has fewer than `min_inliers`, if it fails the a-contrario test (NFA >= 1), or if it agrees only on a watermark, such
    as a date stamp or a frame at the border of both images.
    max_error: maximum distance in pixels of a point from its epipolar line, or from its position by the homography
    """
    options = pycolmap.TwoViewGeometryOptions()
    options.min_num_inliers = min_inliers
    options.ransac.max_error = max_error
    options.ransac.random_seed = seed

    @lru_cache(maxsize=1000)
    def view(image_id: int) -> _View:
        camera = database.read_camera(database.read_image(image_id).camera_id)
        return camera, np.asarray(database.read_keypoints(image_id)[:, :2], np.float64)

    # only this thread reads and writes the database
    problems = ((view(first), view(second), database.read_matches(first, second)) for first, second in pairs)

    def estimate(problem: tuple[_View, _View, np.ndarray]) -> pycolmap.TwoViewGeometry:
        return _estimate(*problem, options)

    workers = usable_cores()
    with contextlib.closing(map_ahead(estimate, problems, workers, workers * _AHEAD)) as geometries:
        for (first, second), geometry in zip(pairs, geometries, strict=True):
            if database.exists_two_view_geometry(first, second):
                database.delete_two_view_geometry(first, second)
            database.write_two_view_geometry(first, second, geometry)  # also without inliers, as in COLMAP
            yield np.asarray(geometry.inlier_matches, np.int64).reshape(-1, 2).T


def is_verified(database: pycolmap.Database, pair: tuple[int, int], inliers: np.ndarray) -> bool:
    """Whether the database has a two-view geometry of a pair of image ids with exactly these inliers, (2, K)."""
    if not database.exists_two_view_geometry(*pair):
        return False
    found = np.asarray(database.read_two_view_geometry(*pair).inlier_matches).reshape(-1, 2).T
    return np.array_equal(found, inliers)


def kinds_of_pairs(database: pycolmap.Database, pairs: Iterable[tuple[int, int]]) -> list[str]:
    """COLMAP's type of the two-view geometry of each pair of image ids: CALIBRATED, PLANAR, WATERMARK, ...

    PANORAMIC: the camera rotated but hardly moved. UNDEFINED: not verified, or without inliers.
    """
    geometries = (database.read_two_view_geometry(*pair) for pair in pairs)
    return [_Config(geometry.config).name for geometry in geometries]


def _estimate(
    first: _View, second: _View, matches: np.ndarray, options: pycolmap.TwoViewGeometryOptions
) -> pycolmap.TwoViewGeometry:
    geometry = pycolmap.estimate_two_view_geometry(*first, *second, matches, options)
    shift = _shift_of_watermark(first, second, geometry, options)
    if shift is not None:
        return _below_watermark(first, second, matches, shift, options)
    chance = max(
        chance_of_inlier(camera.width, camera.height, options.ransac.max_error) for camera, _ in (first, second)
    )
    # COLMAP accepts 15 inliers, which is enough only for the few dozen matches of a strict ratio test
    if log10_false_alarms(len(matches), len(geometry.inlier_matches), chance) >= 0:
        return pycolmap.TwoViewGeometry()
    planar = geometry.config == _Config.PLANAR_OR_PANORAMIC and geometry.H is not None
    if planar and _baseline(np.asarray(geometry.H), first[0], second[0]) < _STILL:
        geometry.config = _Config.PANORAMIC
    return geometry


def _shift_of_watermark(
    first: _View, second: _View, geometry: pycolmap.TwoViewGeometry, options: pycolmap.TwoViewGeometryOptions
) -> np.ndarray | None:
    """The shift in pixels of a watermark between the images; None if there is none.

    COLMAP detects a watermark if it holds seven in ten inliers. But points that do not move fit infinitely many
    epipolar geometries, some of which also fit wrong matches, so a fifth of the inliers unmoved at the border is
    already suspect.
    """
    inliers = np.asarray(geometry.inlier_matches).reshape(-1, 2)
    if not len(inliers):
        return None
    shifts = _shifts(first, second, inliers)
    if geometry.config == _Config.WATERMARK:
        return np.median(shifts, axis=0)
    if (first[0].width, first[0].height) != (second[0].width, second[0].height):
        return None
    at_border = _from_border(first, inliers[:, 0]) < _margin(first, options)
    still = np.linalg.norm(shifts, axis=1) <= _UNMOVED
    if still.mean() < _SUSPECT or at_border[still].mean() < options.watermark_min_inlier_ratio:
        return None
    return np.zeros(2)


def _below_watermark(
    first: _View, second: _View, matches: np.ndarray, shift: np.ndarray, options: pycolmap.TwoViewGeometryOptions
) -> pycolmap.TwoViewGeometry:
    """The geometry of the matches outside the watermark; if they have none, a WATERMARK geometry without inliers.

    A frame may have a repetitive pattern, so all matches within the strip it covers count as part of it.
    """
    off = np.linalg.norm(_shifts(first, second, matches) - shift, axis=1)
    marked = off <= options.watermark_detection_max_error
    inside = np.ones(len(matches), bool)
    for view, column in ((first, 0), (second, 1)):
        depth = _from_border(view, matches[:, column])
        inside &= depth <= np.minimum(depth[marked].max(initial=0), _margin(view, options))
    others = matches[~marked & ~inside]
    fewer = 0 < len(others) < len(matches)
    geometry = _estimate(first, second, others, options) if fewer else pycolmap.TwoViewGeometry()
    if not len(geometry.inlier_matches):
        geometry = pycolmap.TwoViewGeometry()
        geometry.config = _Config.WATERMARK
    return geometry


def _margin(view: _View, options: pycolmap.TwoViewGeometryOptions) -> float:
    """How far from the border COLMAP looks for watermarks, in pixels."""
    return options.watermark_border_size * float(np.hypot(view[0].width, view[0].height))


def _from_border(view: _View, indices: np.ndarray) -> np.ndarray:
    """Distance of keypoints to the nearest border, in pixels."""
    points = view[1][indices]
    return np.minimum(points, [view[0].width, view[0].height] - points).min(axis=1)


def _shifts(first: _View, second: _View, pairs: np.ndarray) -> np.ndarray:
    return second[1][pairs[:, 1]] - first[1][pairs[:, 0]]


def _baseline(H: np.ndarray, first: pycolmap.Camera, second: pycolmap.Camera) -> float:
    """Approximate baseline between two views related by a homography, relative to the distance of the scene.

    It is the spread of the singular values of K2^-1 H K1, which are equal for a pure rotation, minimized over the focal
    lengths, since those of the cameras are guesses.
    """
    least = np.inf
    if not (first.focal_length_idxs() and second.focal_length_idxs()):
        return float(least)  # a spherical camera
    for factor in np.geomspace(0.3, 4, 40):
        K1, K2 = (_calibration(camera, factor) for camera in (first, second))
        values = np.linalg.svd(np.linalg.inv(K2) @ H @ K1, compute_uv=False)
        least = min(least, values[0] / max(values[2], 1e-12) - 1)
    return float(least)


def _calibration(camera: pycolmap.Camera, factor: float) -> np.ndarray:
    K = np.asarray(camera.calibration_matrix()).copy()
    K[0, 0] *= factor
    K[1, 1] *= factor
    return K
