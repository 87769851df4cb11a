"""What the evaluations can be told: which features, how they are matched, how poses are estimated."""

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
    """Which features are measured, and how they are matched."""

    method: tuple[Literal["disk", "rootsift", "sift", "orb"], ...] = ()
    """Features to find, several side by side; the last three need OpenCV. Default: disk, unless --features."""
    weights: tuple[str, ...] = ("default",)
    """Weights of disk, several side by side: default, depth, epipolar, or .pth or .safetensors files."""
    features: tuple[Path, ...] = ()
    """Features found elsewhere: folders of artifacts in our layout or IMW's, or files in hloc's."""
    n: int = 2048
    """The most keypoints of an image: the best by score."""
    max_size: int = 1600
    """Shrink images whose long side is longer, in pixels; 0: never. Errors are in pixels of the images as stored."""
    matcher: MatcherName = "mnn"
    """mnn: mutual nearest neighbours; lightglue: the learned matcher, for the features of disk."""
    matcher_weights: Path | None = None
    """Weights of LightGlue for DISK; default: fetched."""
    ratio: tuple[float, ...] = (0.85,)
    """Ratios of the nearest to the second nearest distance, two-way; 1: no test. Several: the best is reported."""
    degrade: bool = False
    """Spoil the second image of each pair: gamma 2.2, half the contrast, noise of sigma 0.03."""
    seed: int = 0
    """Of that noise."""
    device: str = "auto"
    """Where the network runs: cpu, cuda, cuda:1, mps; auto: a GPU if there is one."""
    cache: Path | None = None
    """Folder that keeps features, so that measuring again costs no detection; default: in the user's cache folder."""

    def check(self) -> None:
        """Raise DiskError for options that make no sense."""
        check_at_least(self, n=1, max_size=0, seed=0)
        if not self.ratio or not all(0 < ratio <= 1 for ratio in self.ratio):
            raise EvaluationError(f"{option('ratio')}: numbers above 0 and at most 1 (1: no ratio test)")
        if self.matcher == "lightglue" and set(self.method) - {"disk"}:
            raise EvaluationError(
                f"{option('matcher', self.matcher)} is for the features of disk; leave the other methods out"
            )
        if self.matcher_weights is not None and self.matcher != "lightglue":
            raise EvaluationError(f"{option('matcher_weights')} is for {option('matcher', 'lightglue')}; leave it out")
        if self.degrade and self.features:
            raise EvaluationError(
                f"{option('degrade', True)} spoils images, and {option('features')} are found already; "
                f"use {option('method')}"
            )


@dataclass(frozen=True, kw_only=True)
class RobustOptions(FeatureOptions):
    """How the geometry of two images is estimated from their matches, and where the figures go."""

    threshold: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0)
    """Inlier thresholds of the estimator in pixels. Several: the best is reported, for each method."""
    estimator: tuple[Literal["poselib", "pycolmap"], ...] = ("poselib",)
    """Robust estimators; pycolmap is a second opinion. Several: a column each, from the same features."""
    runs: int = 1
    """Estimate the geometry of every pair this often, with other random samples: the figures are over all of them."""
    json: Path | None = None
    """Write all figures, for every ratio and threshold, and those of each pair to this file."""
    plot: Path | None = None
    """Draw recall over pose error, for planes mean matching accuracy over pixels, to this file (.png, .svg or .pdf)."""

    def check(self) -> None:
        """Raise DiskError for options that make no sense."""
        super().check()
        check_at_least(self, runs=1)
        if not self.threshold or not all(0 < threshold < float("inf") for threshold in self.threshold):
            raise EvaluationError(f"{option('threshold')}: numbers above 0, in pixels")
        if not self.estimator:
            raise EvaluationError(f"{option('estimator')}: poselib, pycolmap, or both")
        check_outputs(self.json, self.plot)


@dataclass(frozen=True, kw_only=True)
class PoseOptions(RobustOptions):
    """How relative poses are measured."""

    workers: int = 1
    """Processes that estimate poses; they change no figure."""

    def check(self) -> None:
        """Raise DiskError for options that make no sense."""
        super().check()
        check_at_least(self, workers=1)
