"""Validation of features with known matches and poses."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

from disk.datasets.records import PosedImage
from disk.features import Features
from disk.geometry.camera import Camera, project
from disk.model.disk import DISK
from disk.training import validation
from disk.training.validation import PairResult, pose_scalars, summarise, validate_tuple

K = torch.tensor([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])


class Oracle(DISK):
    """Finds the projections of the same points in each image, with one descriptor per point; some are mixed up."""

    def __init__(self, views: list[PosedImage], count: int, mixed_up: int = 0) -> None:
        super().__init__(desc_dim=4)
        generator = torch.Generator().manual_seed(0)
        points = torch.rand(count, 3, generator=generator) * torch.tensor([2.0, 2, 2]) + torch.tensor([-1.0, -1, 3])
        self.features = []
        for number, view in enumerate(views):
            order = torch.arange(count)
            order[:mixed_up] = order[:mixed_up].roll(number)
            pixels, _ = project(view.camera, points)
            self.features.append(Features(pixels, torch.eye(max(count, 1))[order][:, :count], torch.ones(count)))

    def detect(self, image: Any, *others: Any, **changes: Any) -> Any:
        self.asked = changes
        return self.features


def views(count: int = 3) -> list[PosedImage]:
    angles = [0.1 * i for i in range(count)]
    rotations = [
        torch.tensor([[math.cos(a), 0, -math.sin(a)], [0, 1, 0], [math.sin(a), 0, math.cos(a)]]) for a in angles
    ]
    return [
        PosedImage(torch.zeros(3, 16, 16), Camera(K, R, torch.tensor([-0.5 * i, 0.1 * i, 0])), None, str(i))
        for i, R in enumerate(rotations)
    ]


def test_perfect_matches() -> None:
    images = views()
    results = validate_tuple(Oracle(images, 60), images)
    assert len(results) == 3  # all pairs of a triplet
    for result in results:
        assert (result.right, result.wrong, result.keypoints, result.success) == (60, 0, 60, True)
        assert result.rotation < 0.05
        assert result.translation < 0.5
        assert result.inliers >= 55
    summary = summarise(results)
    assert summary["test/precision"] == 1
    assert summary["test/pose/mAA10"] == 1


def test_wrong_matches_are_counted() -> None:
    images = views(2)
    (result,) = validate_tuple(Oracle(images, 60, mixed_up=20), images)
    # by chance, some wrong matches are near the line
    assert result.right + result.wrong == 60
    assert 15 <= result.wrong <= 20
    assert result.rotation < 0.1


@pytest.mark.parametrize("count", [0, 9])
def test_few_matches_are_a_failure(count: int) -> None:
    images = views(2)
    (result,) = validate_tuple(Oracle(images, count), images)
    assert (result.rotation, result.translation, result.inliers, result.success) == (180, 180, 0, False)
    assert summarise([result])["test/keypoints_per_image"] == count


def test_a_pose_that_cannot_be_estimated_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("disk.geometry.robust.estimate_relative_pose", lambda *args, **options: None)
    images = views(2)
    (result,) = validate_tuple(Oracle(images, 60), images)
    assert (result.rotation, result.translation, result.inliers, result.success) == (180, 180, 0, False)
    assert summarise([result])["test/pose/mAA10"] == 0


def test_without_poselib_there_are_no_poses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "has_poses", lambda: False)
    images = views(2)
    results = validate_tuple(Oracle(images, 60), images)
    assert results[0].right == 60
    assert math.isnan(results[0].rotation)
    assert "test/pose/mAA10" not in summarise(results)


def test_features_are_detected_as_the_original_validates() -> None:
    """The best 2048 whole pixels, at the training size."""
    images = views(2)
    model = Oracle(images, 60)
    validate_tuple(model, images)
    assert model.asked == {"n": 2048, "max_size": 0, "subpixel": False}


def test_ten_matches_make_a_pose() -> None:
    images = views(2)
    (result,) = validate_tuple(Oracle(images, 10), images)
    assert result.success
    assert result.rotation < 0.1


@pytest.mark.parametrize(("off", "inliers"), [(1.2, 60), (1.8, 50)])
def test_an_inlier_of_a_pose_is_within_a_pixel(off: float, inliers: int) -> None:
    """Of 60 matches, 10 are off their lines in one image; Sampson's error is that distance / sqrt 2."""
    images = views(2)
    model = Oracle(images, 60)
    model.features[1].keypoints[::6, 1] += off
    (result,) = validate_tuple(model, images)
    assert result.inliers == inliers


def test_a_summary_by_hand() -> None:
    """Errors of 2 degrees and a failure: one of two pairs below 3, 4, ..., 10 degrees, none below 1 and 2."""
    results = [
        PairResult(keypoints=10.0, right=3, wrong=1, rotation=0.5, translation=2.0, inliers=3, success=True),
        PairResult(keypoints=20.0, right=1, wrong=3, rotation=180.0, translation=180.0, inliers=0, success=False),
    ]
    assert summarise(results) == pytest.approx(
        {
            "test/keypoints_per_image": 15,
            "test/matches_per_pair": 4,
            "test/right_per_pair": 2,
            "test/wrong_per_pair": 2,
            "test/reward_per_pair": 1.5,
            "test/precision": 0.5,
            "test/pose/mAA10": 0.4,
        }
    )
    assert pose_scalars(results[0]) == {
        "test/pose/rotation_error": 0.5,
        "test/pose/translation_error": 2.0,
        "test/pose/inliers": 3.0,
        "test/pose/found": 1.0,
    }
    with pytest.raises(FrozenInstanceError):
        results[0].right = 5  # type: ignore[misc]
    assert set(summarise([]).values()) == {0.0}
    assert "test/pose/mAA10" not in summarise([])


def test_the_precision_of_less_than_one_match_per_pair() -> None:
    one = PairResult(keypoints=1.0, right=1, wrong=0, rotation=180.0, translation=180.0, inliers=0, success=False)
    none = PairResult(keypoints=1.0, right=0, wrong=0, rotation=180.0, translation=180.0, inliers=0, success=False)
    assert summarise([one, none, none])["test/precision"] == pytest.approx(1)
    assert summarise([none])["test/precision"] == 0


def test_cameras_in_one_position_have_no_correct_match() -> None:
    images = views(2)
    (result,) = validate_tuple(Oracle(images, 20), [images[0], images[0]])
    assert result.right == 0
