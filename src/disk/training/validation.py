"""Validation of the network as its features are used: NMS, mutual nearest neighbours, robust relative pose."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations

import torch

from disk.datasets.records import PosedImage
from disk.features import Features
from disk.geometry.auc import mean_average_accuracy
from disk.geometry.camera import relative_pose
from disk.geometry.pose import rotation_error, translation_error
from disk.matching.api import match
from disk.model.disk import DISK
from disk.rewards.matches import matched_rewards
from disk.rewards.terms import RewardOptions
from disk.shapes import Float, Tensor

KEYPOINTS = 2048  # keypoint budget per image
MIN_MATCHES = 10  # minimum to estimate a pose
FAILED = 180.0  # error of a pair without a pose, in degrees
ROTATION_ERROR, TRANSLATION_ERROR = "test/pose/rotation_error", "test/pose/translation_error"


@dataclass(frozen=True)
class PairResult:
    """One pair of images. Errors in degrees; nan where poses are not estimated."""

    keypoints: float
    right: int
    wrong: int
    rotation: float
    translation: float
    inliers: int
    success: bool


def has_poses() -> bool:
    """Whether relative poses can be estimated, which needs poselib."""
    return find_spec("poselib") is not None


@torch.inference_mode()
def validate_tuple(model: DISK, views: list[PosedImage]) -> list[PairResult]:
    """Match all pairs of a tuple and compare with the ground truth."""
    # at the training size and in whole pixels, like the original's validation
    features = model.detect([view.image for view in views], n=KEYPOINTS, max_size=0, subpixel=False)
    return [_validate_pair(features[i], features[j], views[i], views[j]) for i, j in combinations(range(len(views)), 2)]


def summarise(results: Iterable[PairResult]) -> dict[str, float]:
    """Means over all pairs; `test/precision` pools all matches, `test/pose/mAA10` is the mAA(10) of the poses."""
    results = list(results)

    def mean(values: Iterable[float]) -> float:
        return sum(values) / max(len(results), 1)

    right, wrong = mean(r.right for r in results), mean(r.wrong for r in results)
    summary = {
        "test/keypoints_per_image": mean(r.keypoints for r in results),
        "test/matches_per_pair": right + wrong,
        "test/right_per_pair": right,
        "test/wrong_per_pair": wrong,
        "test/reward_per_pair": right - 0.25 * wrong,
        "test/precision": right / max(right + wrong, 1e-9),
    }
    if results and not math.isnan(results[0].rotation):
        summary["test/pose/mAA10"] = mean_average_accuracy([max(r.rotation, r.translation) for r in results])
    return summary


def pose_scalars(result: PairResult) -> dict[str, float]:
    """Scalars logged for one pair: the full rotation angle, and the translation angle regardless of sign."""
    return {
        ROTATION_ERROR: result.rotation,
        TRANSLATION_ERROR: result.translation,
        "test/pose/inliers": float(result.inliers),
        "test/pose/found": float(result.success),
    }


def _validate_pair(f1: Features, f2: Features, view1: PosedImage, view2: PosedImage) -> PairResult:
    indices = match(f1, f2, ratio=None).indices.to(f1.keypoints.device)
    kps1, kps2 = f1.keypoints[indices[:, 0]], f2.keypoints[indices[:, 1]]
    options = RewardOptions(epipolar=True, visibility=False)
    right = int((matched_rewards(kps1, kps2, view1.camera, view2.camera, options=options) > 0).sum())
    rotation, translation, inliers = _pose_errors(kps1, kps2, view1, view2)
    return PairResult(
        keypoints=(len(f1) + len(f2)) / 2,
        right=right,
        wrong=len(indices) - right,
        rotation=rotation,
        translation=translation,
        inliers=inliers,
        success=inliers > 0,
    )


def _pose_errors(
    kps1: Float[Tensor, "k 2"], kps2: Float[Tensor, "k 2"], view1: PosedImage, view2: PosedImage
) -> tuple[float, float, int]:
    """Rotation and translation errors in degrees, and the number of inliers (0 on failure)."""
    if not has_poses():
        return math.nan, math.nan, 0
    from disk.geometry.robust import estimate_relative_pose

    if len(kps1) < MIN_MATCHES:
        return FAILED, FAILED, 0
    # device first, then dtype: Apple GPUs lack float64
    camera1, camera2 = (view.camera.to("cpu").to(dtype=torch.float64) for view in (view1, view2))
    estimate = estimate_relative_pose(
        kps1.cpu().numpy(),
        kps2.cpu().numpy(),
        camera1.K.numpy(),
        camera2.K.numpy(),
        threshold=1.0,
    )
    if estimate is None:
        return FAILED, FAILED, 0
    R, t = relative_pose(camera1, camera2)
    return (
        rotation_error(estimate.R, R.numpy()),
        translation_error(estimate.t, t.numpy()),
        int(estimate.inliers.sum()),
    )
