"""Geometric verification of matches by pycolmap, as COLMAP's own matcher does it, but for chance agreement."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import pycolmap

from disk.geometry.epipolar import chance_of_inlier, log10_false_alarms

_AHEAD = 4  # pairs waiting per thread


def verify_pairs(
    database: pycolmap.Database,
    pairs: Sequence[tuple[int, int]],
    max_error: float,
    min_inliers: int,
    seed: int,
) -> Iterator[np.ndarray]:
    """Verify pairs of image ids: their two-view geometries go into the database.

    max_error: pixels between a point and its epipolar line (or its place by the homography). Pairs with
    fewer than `min_inliers` inliers, or with no more than wrong matches bring, have none. Yields the inliers of each
    pair in order, (2, K) int64, a subset of the columns of its matches.
    """
    options = pycolmap.TwoViewGeometryOptions()
    options.min_num_inliers = min_inliers
    options.ransac.max_error = max_error
    options.ransac.random_seed = seed

    @lru_cache(maxsize=1000)
    def view(image_id: int) -> tuple[pycolmap.Camera, np.ndarray]:
        camera = database.read_camera(database.read_image(image_id).camera_id)
        return camera, np.asarray(database.read_keypoints(image_id)[:, :2], np.float64)

    def estimate(first: int, second: int) -> Future[pycolmap.TwoViewGeometry]:
        return pool.submit(_estimate, view(first), view(second), database.read_matches(first, second), options)

    workers = os.cpu_count() or 1
    waiting: deque[tuple[int, int, Future[pycolmap.TwoViewGeometry]]] = deque()
    upcoming = iter(pairs)
    pool = ThreadPoolExecutor(workers, "verify")
    try:
        while True:
            for first, second in upcoming:
                waiting.append((first, second, estimate(first, second)))
                if len(waiting) >= workers * _AHEAD:
                    break
            if not waiting:
                return
            first, second, future = waiting.popleft()
            geometry = future.result()
            if database.exists_two_view_geometry(first, second):
                database.delete_two_view_geometry(first, second)
            database.write_two_view_geometry(first, second, geometry)  # also without inliers, as COLMAP
            yield np.asarray(geometry.inlier_matches, np.int64).reshape(-1, 2).T
    finally:
        pool.shutdown(cancel_futures=True)


def _estimate(
    first: tuple[pycolmap.Camera, np.ndarray],
    second: tuple[pycolmap.Camera, np.ndarray],
    matches: np.ndarray,
    options: pycolmap.TwoViewGeometryOptions,
) -> pycolmap.TwoViewGeometry:
    geometry = pycolmap.estimate_two_view_geometry(*first, *second, matches, options)
    chance = max(
        chance_of_inlier(camera.width, camera.height, options.ransac.max_error) for camera, _ in (first, second)
    )
    # COLMAP is content with 15 inliers, which suits the few dozen matches of a strict ratio test
    if log10_false_alarms(len(matches), len(geometry.inlier_matches), chance) >= 0:
        return pycolmap.TwoViewGeometry()
    return geometry
