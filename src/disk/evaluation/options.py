"""Options of the evaluations: features, matching and pose estimation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from disk.errors import EvaluationError
from disk.evaluation.report import check_outputs
from disk.matching.matcher import MatcherName
from disk.options import Options, check_at_least, option


@dataclass(frozen=True, kw_only=True)
class FeatureOptions(Options):
    """Which features to evaluate and how to match them."""

    method: tuple[Literal["disk", "rootsift", "sift", "orb"], ...] = ()
    """Features to detect, one or more; all but disk need OpenCV. Default: disk, unless --features is given."""
    weights: tuple[str, ...] = ("default",)
    """Weights of disk, one or more: default, depth, epipolar, or .pth or .safetensors files."""
    features: tuple[Path, ...] = ()
    """Stored features to evaluate: folders of artifacts in our layout or IMW's, or files in hloc's."""
    n: int = 2048
    """Keypoint budget: maximum number of keypoints per image, the best by score."""
    max_size: int = 1600
    """Downscale images with a longer side than this, in pixels; 0: never. Errors are in pixels of the images as
    stored."""
    matcher: MatcherName = "mnn"
    """mnn: mutual nearest neighbours; lightglue: the learned matcher, for the features of disk."""
    matcher_weights: Path | None = None
    """Weights of LightGlue for DISK; default: downloaded."""
    ratio: tuple[float, ...] = (0.85,)
    """Maximum ratios of the nearest to the second nearest distance, tested both ways; 1: no test. With several, the
    best one is reported."""
    degrade: bool = False
    """Degrade the second image of each pair: gamma 2.2, half the contrast, noise of sigma 0.03."""
    seed: int = 0
    """Random seed of the noise of --degrade."""
    device: str = "auto"
    """Where the network runs: cpu, cuda, cuda:1, mps; auto: a GPU if there is one."""
    cache: Path | None = None
    """Folder to cache features in, so that repeated runs skip detection; default: in the user's cache folder."""

    def check(self) -> None:
        """Raise DiskError for invalid options."""
        check_at_least(self, n=1, max_size=0, seed=0)
        if not self.ratio or not all(0 < ratio <= 1 for ratio in self.ratio):
            raise EvaluationError(f"{option('ratio')}: must be above 0 and at most 1 (1: no ratio test)")
        if self.matcher == "lightglue" and set(self.method) - {"disk"}:
            raise EvaluationError(
                f"{option('matcher', self.matcher)} is for the features of disk; leave the other methods out"
            )
        if self.matcher_weights is not None and self.matcher != "lightglue":
            raise EvaluationError(f"{option('matcher_weights')} is for {option('matcher', 'lightglue')}; leave it out")
        if self.degrade and self.features:
            raise EvaluationError(
                f"{option('degrade', True)} changes images, but {option('features')} are already detected; "
                f"use {option('method')}"
            )


@dataclass(frozen=True, kw_only=True)
class RobustOptions(FeatureOptions):
    """How to estimate the geometry of two images from their matches, and where to write the figures."""

    threshold: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0)
    """Inlier thresholds of the estimator in pixels. With several, the best one is reported for each method."""
    estimator: tuple[Literal["poselib", "pycolmap"], ...] = ("poselib",)
    """Robust estimators; pycolmap serves as a cross-check. With several, each gets a column, from the same features."""
    runs: int = 1
    """Number of estimates per pair, with different random samples; the figures cover all of them."""
    json: Path | None = None
    """Write all figures for every ratio and threshold, and those of each pair, to this file."""
    plot: Path | None = None
    """Plot recall against pose error (for homographies, mean matching accuracy against pixels) to this .png, .svg or
    .pdf file."""

    def check(self) -> None:
        """Raise DiskError for invalid options."""
        super().check()
        check_at_least(self, runs=1)
        if not self.threshold or not all(0 < threshold < float("inf") for threshold in self.threshold):
            raise EvaluationError(f"{option('threshold')}: must be above 0, in pixels")
        if not self.estimator:
            raise EvaluationError(f"{option('estimator')}: give poselib, pycolmap, or both")
        check_outputs(self.json, self.plot)


@dataclass(frozen=True, kw_only=True)
class PoseOptions(RobustOptions):
    """Options of the relative pose benchmark."""

    workers: int = 1
    """Number of processes that estimate poses; does not affect the figures."""

    def check(self) -> None:
        """Raise DiskError for invalid options."""
        super().check()
        check_at_least(self, workers=1)
