"""SIFT features, detected and matched by pycolmap, for comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycolmap

from disk.errors import ColmapError


def find_sift(
    database: Path, images: Path, names: Sequence[str], n: int, max_size: int, camera_model: str, single_camera: bool
) -> None:
    """Detect SIFT features with COLMAP's default options and write them to a new database.

    names: image paths relative to `images`, with extension
    n: maximum number of keypoints per image
    max_size: maximum of the longer side in pixels; 0: no limit
    camera_model: as returned by `colmap.cameras.camera_model`
    single_camera: one camera for all images

    Raises ColmapError for an image that COLMAP cannot decode.
    """
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)
    reader = pycolmap.ImageReaderOptions(camera_model=camera_model)
    extraction = pycolmap.FeatureExtractionOptions()
    # in COLMAP, 0 means no keypoints at all and -1 its default limit of 3,200 pixels
    extraction.max_image_size = max_size or 2**31 - 1
    extraction.sift.max_num_features = n
    mode = pycolmap.CameraMode.SINGLE if single_camera else pycolmap.CameraMode.PER_IMAGE
    pycolmap.extract_features(database, images, list(names), mode, reader, extraction, pycolmap.Device.cpu)
    with pycolmap.Database.open(database) as opened:
        found = {image.name for image in opened.read_all_images()}
        missing = sorted(set(names) - found)
        if missing:
            raise ColmapError(f"COLMAP cannot decode {missing[0]}; convert it to .jpg or .png")
        _keep_largest(opened, n)


def match_sift(database: Path, max_error: float, min_inliers: int, seed: int) -> None:
    """Match and verify all pairs on the CPU, with the defaults of COLMAP's exhaustive matcher.

    max_error, min_inliers: as for `colmap.verification.verify_pairs`; max_error in pixels
    """
    verification = pycolmap.TwoViewGeometryOptions()
    verification.min_num_inliers = min_inliers
    verification.ransac.max_error = max_error
    verification.ransac.random_seed = seed
    pycolmap.match_exhaustive(database, verification_options=verification, device=pycolmap.Device.cpu)


def _keep_largest(database: pycolmap.Database, n: int) -> None:
    """Keep n keypoints in all: COLMAP keeps the n points of largest scale, but each with up to two orientations."""
    kept = {}
    for image in database.read_all_images():
        keypoints = database.read_keypoints(image.image_id)
        descriptors = database.read_descriptors(image.image_id)
        # columns 2 to 5 are the affine shape, whose determinant is the squared scale
        area = np.abs(keypoints[:, 2] * keypoints[:, 5] - keypoints[:, 3] * keypoints[:, 4])
        best = np.sort(np.argsort(-area, kind="stable")[:n])
        descriptors.data = descriptors.data[best]
        kept[image.image_id] = keypoints[best], descriptors
    database.clear_keypoints()
    database.clear_descriptors()
    for image_id, (keypoints, descriptors) in kept.items():
        database.write_keypoints(image_id, keypoints)
        database.write_descriptors(image_id, descriptors)
