"""COLMAP's own features: SIFT found and matched by pycolmap, to compare ours with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycolmap

from disk.errors import ColmapError


def find_sift(
    database: Path, images: Path, names: Sequence[str], n: int, max_size: int, camera_model: str, single_camera: bool
) -> None:
    """Find at most n SIFT keypoints in each image into a new database, with COLMAP's default options.

    names: of images below the folder, with extension; max_size: of the long side in pixels, 0: as they are;
    camera_model: as `colmap.cameras.camera_model` gives it. Raises ColmapError for an image COLMAP cannot decode.
    """
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)
    reader = pycolmap.ImageReaderOptions(camera_model=camera_model)
    extraction = pycolmap.FeatureExtractionOptions()
    # 0 is COLMAP's word for no keypoints at all, and -1 for its own limit of 3,200 pixels
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
    """Match all pairs and verify them, as COLMAP's exhaustive matcher does by default, on the CPU.

    max_error in pixels and min_inliers as for `colmap.verification.verify_pairs`.
    """
    verification = pycolmap.TwoViewGeometryOptions()
    verification.min_num_inliers = min_inliers
    verification.ransac.max_error = max_error
    verification.ransac.random_seed = seed
    pycolmap.match_exhaustive(database, verification_options=verification, device=pycolmap.Device.cpu)


def _keep_largest(database: pycolmap.Database, n: int) -> None:
    """COLMAP keeps the n points of largest scale, but each with up to two orientations: hold it to n in all."""
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
