"""Matches pairs, estimates their relative poses at every setting and compares them with the ground truth."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from time import perf_counter

import numpy as np

from disk.evaluation.ground_truth import HomographyPair, PosePair, View
from disk.evaluation.matching import Matcher
from disk.evaluation.metrics import symmetric_epipolar_distance
from disk.evaluation.options import PoseOptions
from disk.evaluation.report import Value
from disk.evaluation.sources import Source
from disk.geometry.auc import mean_average_accuracy, pose_auc
from disk.geometry.pose import rotation_error, translation_error
from disk.geometry.robust import RelativePose, estimate_relative_pose
from disk.progress import track
from disk.shapes import Float

# maximum squared distance of a correct match, in normalised coordinates (SuperGlue)
_CORRECT = 5e-4


@dataclass(frozen=True)
class Setting:
    """A combination of settings tried for each method.

    ratio: None if the matcher has no ratio test.
    """

    estimator: str
    ratio: float | None
    threshold: float


@dataclass(frozen=True)
class Outcome:
    """Results of one setting. Arrays have shape (pairs * runs,), pair by pair.

    rotation, translation: errors in degrees; infinite if there is no pose.
    """

    rotation: Float[np.ndarray, " n"]
    translation: Float[np.ndarray, " n"]
    inliers: Float[np.ndarray, " n"]
    matches: float
    precision: float
    match_seconds: float
    pose_seconds: float

    @property
    def errors(self) -> Float[np.ndarray, " n"]:
        """The larger of both errors."""
        return np.maximum(self.rotation, self.translation)


@dataclass(frozen=True)
class _Job:
    """One pair to estimate with all thresholds and estimators."""

    p0: Float[np.ndarray, "n 2"]
    p1: Float[np.ndarray, "n 2"]
    pair: PosePair
    settings: tuple[Setting, ...]
    runs: int


def views(pairs: Iterable[PosePair | HomographyPair]) -> list[View]:
    """All distinct views of some pairs, in order."""
    return list(dict.fromkeys(view for pair in pairs for view in (pair.view0, pair.view1)))


def measure(source: Source, pairs: Sequence[PosePair], options: PoseOptions) -> dict[Setting, Outcome]:
    """Match all pairs and estimate their poses at every setting.

    The figures do not depend on the order of the pairs or the number of workers.
    """
    matcher = Matcher(options)
    outcomes: dict[Setting, Outcome] = {}
    for ratio in matcher.ratios:
        settings = tuple(Setting(e, ratio, t) for e in options.estimator for t in options.threshold)
        jobs, precision, start = [], [], perf_counter()
        for pair in track(pairs, f"{source.label}: matches{'' if ratio is None else f' at {ratio:g}'}", "pair"):
            indices = matcher.match(source, pair.view0, pair.view1, ratio).indices
            p0 = source.features(pair.view0).keypoints[indices[:, 0]].double().numpy()
            p1 = source.features(pair.view1).keypoints[indices[:, 1]].double().numpy()
            jobs.append(_Job(p0, p1, pair, settings, options.runs))
            precision.append(_precision(p0, p1, pair))
        match_seconds = (perf_counter() - start) / len(pairs)
        results = np.array(_estimate_all(jobs, options.workers, source.label))  # pairs, settings, runs, 4
        for i, setting in enumerate(settings):
            rotation, translation, inliers, seconds = results[:, i].reshape(-1, 4).T
            matches = float(np.mean([len(job.p0) for job in jobs]))
            outcomes[setting] = Outcome(
                rotation, translation, inliers, matches, float(np.mean(precision)), match_seconds, seconds.mean()
            )
    return outcomes


def _precision(p0: Float[np.ndarray, "n 2"], p1: Float[np.ndarray, "n 2"], pair: PosePair) -> float:
    if len(p0) == 0:
        return 0.0
    distance = symmetric_epipolar_distance(p0, p1, pair.K0, pair.K1, pair.R, pair.t)
    return float((distance < _CORRECT).mean())


def _estimate_all(jobs: list[_Job], workers: int, label: str) -> list[np.ndarray]:
    name = f"{label}: poses"
    if workers == 1:
        return [_estimate(job) for job in track(jobs, name, "pair")]
    # a fork would copy the locks of torch's threads
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return list(track(pool.map(_estimate, jobs, chunksize=4), name, "pair", total=len(jobs)))


def _estimate(job: _Job) -> np.ndarray:
    """(settings, runs, 4): rotation error, translation error, inliers, seconds."""
    results = np.empty((len(job.settings), job.runs, 4))
    for i, setting in enumerate(job.settings):
        for run in range(job.runs):
            start = perf_counter()
            pose = _estimator(setting.estimator)(
                job.p0, job.p1, job.pair.K0, job.pair.K1, threshold=setting.threshold, seed=run
            )
            seconds = perf_counter() - start
            if pose is None:
                results[i, run] = np.inf, np.inf, 0, seconds
            else:
                rotation = rotation_error(pose.R, job.pair.R)
                results[i, run] = rotation, translation_error(pose.t, job.pair.t), pose.inliers.sum(), seconds
    return results


def _estimator(name: str) -> Callable[..., RelativePose | None]:
    if name == "poselib":
        return estimate_relative_pose
    from disk.colmap.estimation import estimate_relative_pose as by_pycolmap

    return by_pycolmap


def figures_of(outcome: Outcome) -> dict[str, Value]:
    """The figures of one setting; fractions are in percent."""
    auc = pose_auc(outcome.errors, [5, 10, 20])
    return {
        "AUC@5": 100 * auc[0],
        "AUC@10": 100 * auc[1],
        "AUC@20": 100 * auc[2],
        "mAA(10)": 100 * mean_average_accuracy(outcome.errors),
        "precision": 100 * outcome.precision,
        "matches": outcome.matches,
        "inliers": float(outcome.inliers.mean()),
        "failures": int(np.isinf(outcome.errors).sum()),
    }


def seconds_of(outcome: Outcome) -> dict[str, Value]:
    """Seconds of matching and of pose estimation per pair."""
    return {"seconds per match": outcome.match_seconds, "seconds per pose": outcome.pose_seconds}


def settings_of(outcomes: dict[Setting, Outcome]) -> list[dict[str, Value]]:
    """The figures of every setting, for --json."""
    return [{**asdict(setting), **figures_of(outcome)} for setting, outcome in outcomes.items()]


def label_of(source: Source, estimator: str, estimators: Sequence[str]) -> str:
    """A method's name in the table, with the estimator if there are several."""
    return source.label if len(estimators) == 1 else f"{source.label} {estimator}"


def recall_curve(errors: Float[np.ndarray, " n"]) -> tuple[list[float], list[float]]:
    """Fraction of errors of at most x, for x from 0 to 20 degrees."""
    x = np.linspace(0, 20, 201)
    return x.tolist(), np.mean(errors[:, None] <= x, axis=0).tolist()


def best_of(figure: str, ratios: Sequence[float], thresholds: Sequence[float], matcher: str) -> str:
    """Note for a table on how its columns were chosen; empty if there was no choice."""
    tried = []
    if len(ratios) > 1 and matcher == "mnn":
        tried.append(f"ratios {' '.join(f'{ratio:g}' for ratio in ratios)}")
    if len(thresholds) > 1:
        tried.append(f"thresholds {' '.join(f'{threshold:g}' for threshold in thresholds)} px")
    return f"each column is the best by {figure} over {' and '.join(tried)}" if tried else ""


FORMATS = {
    "matches": ".0f",
    "inliers": ".0f",
    "failures": "d",
    "ratio": "g",
    "threshold": "g",
    "seconds per image": ".3f",
    "seconds per match": ".3f",
    "seconds per pose": ".3f",
}
AXES = ("pose error (degrees)", "fraction of pairs")
