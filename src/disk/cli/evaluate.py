"""`disk evaluate`: evaluating features by relative pose, homographies, the IMW benchmark, reconstruction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from disk.cli.app import run_group
from disk.evaluation import homography as homography_stage
from disk.evaluation import imw as imw_stage
from disk.evaluation import pose as pose_stage
from disk.evaluation import reconstruction as reconstruction_stage
from disk.evaluation.homography import HomographyOptions
from disk.evaluation.imw import ImwOptions
from disk.evaluation.options import PoseOptions
from disk.evaluation.reconstruction import ReconstructionOptions


def pose(
    pairs: Positional[Path],
    images: Positional[Path],
    options: PoseOptions = PoseOptions(),
) -> None:
    """Evaluate relative pose on pairs with ground truth: AUC at 5, 10 and 20 degrees, mAA(10), precision.

    Args:
        pairs: File with a line per pair: name0 name1 rot0 rot1 K0(9) K1(9) T_0to1(16), as for MegaDepth-1500,
            ScanNet-1500 and YFCC.
        images: Folder that the names are relative to.
        options: What to evaluate, and how.
    """
    pose_stage.evaluate_pose(pairs, images, options)


def homography(root: Positional[Path], options: HomographyOptions = HomographyOptions()) -> None:
    """Evaluate matching and homographies on HPatches: MMA, repeatability, matching score, corner error.

    Args:
        root: Folder of sequences i_* and v_*, each with 1.ppm to 6.ppm (or png, ...) and H_1_2 to H_1_6.
        options: What to evaluate, and how.
    """
    homography_stage.evaluate_homography(root, options)


def imw(scenes: Positional[tuple[Path, ...]], options: ImwOptions = ImwOptions()) -> None:
    """Evaluate stereo mAA(10) on scenes of the Image Matching Workshop benchmark.

    Args:
        scenes: Scene folders with set_100/{images,calibration,new-vis-pairs}, or the set_100 folders themselves.
        options: What to evaluate, and how.
    """
    imw_stage.evaluate_imw(scenes, options)


def reconstruction(
    images: Positional[tuple[Path, ...]],
    options: ReconstructionOptions = ReconstructionOptions(),
) -> None:
    """Compare sparse models from our features and COLMAP's SIFT: registered images, points, tracks, error, seconds.

    Args:
        images: Folders of photos, one model per folder.
        options: Options of the reconstruction.
    """
    reconstruction_stage.evaluate_reconstruction(images, options)


COMMANDS: dict[str, tuple[Callable[..., Any], str]] = {
    "pose": (pose, "disk evaluate pose pairs.txt images/ --method disk rootsift"),
    "homography": (homography, "disk evaluate homography hpatches/ --method disk rootsift sift orb"),
    "imw": (imw, "disk evaluate imw phototourism/* --ratio 0.8 0.85 0.9"),
    "reconstruction": (reconstruction, "disk evaluate reconstruction fountain/images castle/images"),
}


def main(argv: list[str]) -> int:
    return run_group(COMMANDS, argv, "evaluate", "Evaluate features on standard benchmarks.") or 0
