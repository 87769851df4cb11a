"""Localizing one photo in a model: matches with 3D points, candidate cameras, pose."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from disk.devices import choose_device
from disk.features import Features
from disk.geometry.chance import log10_false_alarms
from disk.images.listing import ImageFile
from disk.matching.matcher import Matcher, make_matcher
from disk.options import Options
from disk.pairs.retrieval import similar_images
from disk.pipeline.feature_cache import FeatureCache, upright_image_size
from disk.pipeline.match import read_lightglue
from disk.pipeline.match_options import ratio_of
from disk.pipeline.options import ChosenImages, MaskFolder, MatcherChoice, Network, Place, Seed
from disk.pipeline.precheck import Sizes
from disk.progress import counted
from disk.storage.artifacts import FeatureStore

if TYPE_CHECKING:
    from disk.colmap.cameras import KnownCamera
    from disk.colmap.localization import AbsolutePose, Focal, PosedModel

_CACHE = 2048 << 20  # bytes of descriptors
_BETTER = 1.1  # a less certain camera is preferred if it has this many times the inliers


@dataclass(frozen=True, kw_only=True)
class LocalizeOptions(Seed, MatcherChoice, Place, Network, MaskFolder, ChosenImages, Options):
    """How to localize photos; their features are detected with the options used for the model."""

    camera: Literal["auto", "model", "exif", "unknown"] = "auto"
    """model: the camera of the model, if all its photos share one; exif: focal length from EXIF, refined; unknown:
    estimate focal length and distortion with the pose; auto: the one of these with the most inliers."""
    focal_length: float | int | None = None
    """Known focal length of all photos, in pixels; assumes no distortion."""
    top_k: int = 10
    """Number of most similar images of the model to match each photo with."""
    max_error: float | int = 8.0
    """Maximum reprojection error of an inlier, in pixels."""
    min_inliers: int = 15
    """Minimum number of inliers of a localized photo, which also has to pass an a-contrario test (NFA < 1)."""
    overwrite: bool = False
    """Delete the results in OUT and start over."""
    keep_going: bool = False
    """Exit with 0 even when some photos could not be read."""


@dataclass(frozen=True)
class Located:
    """The result for one photo.

    found: whether it has a pose
    reason: why it has none; '' if it has one
    matches: number of matches with 3D points
    inliers: number of those that agree with the pose
    images: number of matches with each image of the model, largest first
    rotation (quaternion w, x, y, z), translation: camera from world, as in COLMAP
    centre: position of the camera, in units of the model
    camera: model, width, height and params, as in COLMAP
    camera_from: model, exif, unknown or given
    error: median reprojection error of the inliers, in pixels
    position_sigma, rotation_sigma: standard deviations of the position (units of the model) and the rotation (degrees),
        from keypoint errors only; None if the pose is not well determined
    """

    found: bool
    reason: str = ""
    matches: int = 0
    inliers: int = 0
    images: dict[str, int] = field(default_factory=dict)
    rotation: list[float] | None = None
    translation: list[float] | None = None
    centre: list[float] | None = None
    camera: dict[str, Any] | None = None
    camera_from: str | None = None
    error: float | None = None
    position_sigma: float | None = None
    rotation_sigma: float | None = None


class Locator:
    """Matches photos with the most similar images of a model and estimates their poses."""

    def __init__(
        self,
        posed: PosedModel,
        names: dict[str, str],
        known: FeatureStore,
        features: FeatureStore,
        sizes: Sizes,
        options: LocalizeOptions,
    ) -> None:
        device = choose_device(options.device)
        self._posed, self._names, self._sizes, self._options = posed, names, sizes, options
        self._known, self._features = known, features

        def to_device(found: Features) -> Features:
            return found.to(device)

        self._of_model = FeatureCache(known, _CACHE, False, to_device)
        self._of_photos = FeatureCache(features, _CACHE, False, to_device)
        self._match = _matcher(options)
        registered = _Some(self._of_model, sorted(names))
        asked = _Some(self._of_photos, [name for name in features.names if name in sizes])
        self._similar = similar_images(asked, registered, options.top_k)

    def __call__(self, file: ImageFile) -> tuple[Located, np.ndarray]:
        """Localize a photo; also return its observations (k, 3): keypoint x, y and index of the 3D point."""
        nothing = np.empty((0, 3))
        keypoints = self._features.keypoints(file.name)
        if not len(keypoints):
            return Located(False, "no keypoints: is it blank, out of focus or masked?"), nothing
        rows, points, images = self._matches(file.name)
        pose, origin, focal = self._pose(file, keypoints[rows], self._posed.xyz[points])
        if pose is None:
            reason = f"no pose fits its {counted(len(rows), 'match', 'matches')} with points of the model"
            return Located(False, reason, len(rows), 0, images), nothing
        inliers = int(pose.inliers.sum())
        reason = self._doubt(file, keypoints[rows], self._posed.xyz[points], pose, focal)
        if reason:
            return Located(False, reason, len(rows), inliers, images), nothing
        located = Located(
            found=True,
            matches=len(rows),
            inliers=inliers,
            images=images,
            rotation=pose.quaternion,
            translation=pose.t.tolist(),
            centre=pose.centre.tolist(),
            camera=asdict(pose.camera),
            camera_from=origin,
            error=pose.error,
            position_sigma=_finite(pose.position_sigma),
            rotation_sigma=_finite(pose.rotation_sigma),
        )
        return located, np.column_stack([keypoints[rows[pose.inliers]], points[pose.inliers]])

    def _matches(self, name: str) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
        """Distinct matches of a photo (keypoint index, point index), and the number by image of the model."""
        of_photo = self._of_photos[name]
        size = upright_image_size(self._features, name) if self._options.matcher == "lightglue" else None
        found, images = [np.empty((0, 2), np.int64)], dict[str, int]()
        for other in self._similar[name]:
            other_size = upright_image_size(self._known, other) if size else None
            matches = self._match([(of_photo, self._of_model[other], size, other_size)])[0].indices.numpy()
            image = self._names[other]
            pairs = np.stack([matches[:, 0], self._posed.images[image].points[matches[:, 1]]], axis=1)
            pairs = pairs[pairs[:, 1] >= 0]
            found.append(pairs)
            if len(pairs):
                images[image] = len(pairs)
        distinct = np.unique(np.concatenate(found), axis=0)
        return distinct[:, 0], distinct[:, 1], dict(sorted(images.items(), key=lambda item: (-item[1], item[0])))

    def _pose(self, file: ImageFile, keypoints: np.ndarray, xyz: np.ndarray) -> tuple[AbsolutePose | None, str, Focal]:
        """The pose with the most inliers over the candidate cameras; prefers the more certain camera."""
        from disk.colmap.localization import estimate_absolute_pose

        best: tuple[AbsolutePose | None, str, Focal] = None, "", "known"
        for camera, origin, focal in self._cameras(file):
            pose = estimate_absolute_pose(
                keypoints, xyz, camera, focal, max_error=self._options.max_error, seed=self._options.seed
            )
            needed = 0 if best[0] is None else _BETTER * best[0].inliers.sum()
            if pose is not None and pose.inliers.sum() > needed:
                best = pose, origin, focal
        return best

    def _cameras(self, file: ImageFile) -> list[tuple[KnownCamera, str, Focal]]:
        """Candidate cameras of a photo, with their origin, the most certain first."""
        from disk.colmap.cameras import DEFAULT_FOCAL_FACTOR, from_colmap, guess_camera, simple_camera

        width, height = self._sizes[file.name]
        if self._options.focal_length is not None:
            return [(simple_camera(width, height, self._options.focal_length), "given", "known")]
        found: list[tuple[KnownCamera, str, Focal]] = []
        wanted = self._options.camera
        shared = shared_camera(self._posed)
        if wanted in ("auto", "model") and shared and (shared.width, shared.height) == (width, height):
            found.append((shared, "model", "known"))
        guess = guess_camera(file.path, "SIMPLE_RADIAL")
        if wanted in ("auto", "exif") and guess.has_prior_focal_length:
            found.append((from_colmap(guess), "exif", "guess"))
        if wanted in ("auto", "unknown"):
            focal = DEFAULT_FOCAL_FACTOR * max(width, height)
            found.append((simple_camera(width, height, focal), "unknown", "unknown"))
        return found

    def _doubt(self, file: ImageFile, keypoints: np.ndarray, xyz: np.ndarray, pose: AbsolutePose, focal: Focal) -> str:
        """Why a pose is rejected; '' if it is accepted."""
        from disk.colmap.localization import SAMPLE, SOLUTIONS

        matches = len(keypoints)
        width, height = self._sizes[file.name]
        chance = min(1.0, math.pi * self._options.max_error**2 / (width * height))
        # a keypoint that matches several points, or a point with several keypoints, counts as one observation
        agree = min(len(np.unique(rows, axis=0)) for rows in (keypoints[pose.inliers], xyz[pose.inliers]))
        if agree < self._options.min_inliers:
            return f"only {agree} of {matches} matches agree with a pose, fewer than {self._options.min_inliers}"
        if log10_false_alarms(matches, agree, chance, SAMPLE[focal], SOLUTIONS[focal]) >= 0:
            return f"only {agree} of {matches} matches agree with a pose, no more than expected by chance"
        return ""


@dataclass(frozen=True)
class _Some:
    """A subset of the images in a cache."""

    source: FeatureCache[Features]
    names: list[str]

    def __getitem__(self, name: str) -> Features:
        return self.source[name]


def shared_camera(posed: PosedModel) -> KnownCamera | None:
    """The camera shared by all images of a model; None if they have several."""
    cameras = {image.camera for image in posed.images.values()}
    return next(iter(cameras)) if len(cameras) == 1 else None


def _matcher(options: LocalizeOptions) -> Matcher:
    weights = read_lightglue(options.matcher_weights) if options.matcher == "lightglue" else None
    return make_matcher(options.matcher, choose_device(options.device), ratio_of(options), weights=weights)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
