"""Homography benchmark: keypoints and matches on images of planes, as on HPatches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np

from disk.errors import EvaluationError
from disk.evaluation.ground_truth import HomographyPair, read_homography_pairs
from disk.evaluation.matching import Matcher
from disk.evaluation.metrics import corner_error, covisible, matching_score, repeatability, transfer_error
from disk.evaluation.options import RobustOptions
from disk.evaluation.poses import Setting, best_of, label_of, views
from disk.evaluation.report import Report, Result, Value, write_report
from disk.evaluation.sources import Source, open_sources
from disk.geometry.auc import pose_auc
from disk.geometry.robust import estimate_homography
from disk.images.reading import image_size
from disk.options import AnyPath, option
from disk.progress import counted, log, track
from disk.shapes import Float
from disk.storage.new_file import new_file

# maximum error in pixels of a repeated keypoint and of a correct match
_CORRECT = 3.0
_MMA = range(1, 11)
_CORNERS = (3, 5, 10)
_SPLITS = {"all": "iv", "illumination": "i", "viewpoint": "v"}
# D2-Net's cache files go up to 15 pixels and exclude these eight sequences of large images
_D2NET_PIXELS = range(1, 16)
_D2NET_WITHOUT = (
    "i_contruction", "i_crownnight", "i_dc", "i_pencils", "i_whitebuilding", "v_artisans", "v_astronautis", "v_talent",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HomographyOptions(RobustOptions):
    """Options of the homography benchmark."""

    threshold: tuple[float, ...] = (1.0, 2.0, 3.0)
    """Inlier thresholds of the estimator in pixels. With several, the best one is reported for each method."""
    format: Literal["d2net"] | None = None
    """d2net: also write OUT/METHOD.npy in the format of D2-Net's published results, without its eight large
    sequences."""
    out: Path = Path()
    """Folder for the files of --format."""

    def check(self) -> None:
        """Raise DiskError for invalid options."""
        super().check()
        if self.format is not None and not self.out.is_dir():
            raise EvaluationError(f"{option('out', str(self.out))}: no such folder")


@dataclass(frozen=True)
class PairResult:
    """Result of matching one pair.

    errors: error of each match in pixels.
    """

    kind: str
    keypoints: tuple[int, int]
    errors: Float[np.ndarray, " k"]
    repeatability: float
    matching_score: float


def evaluate_homography(root: AnyPath, options: HomographyOptions = HomographyOptions()) -> Report:
    """Evaluate matching and homography estimation on HPatches sequences; prints a table and writes requested files.

    root: folder of sequences.

    Raises EvaluationError if the folder has another layout or files are missing.
    """
    options.check()
    pairs = read_homography_pairs(Path(root), _D2NET_WITHOUT if options.format == "d2net" else ())
    results = []
    for source in open_sources(options):
        seconds = source.prepare(views(pairs))
        matched, corners, match_seconds = _measure(source, pairs, options)
        for estimator in options.estimator:
            mine = {setting: errors for setting, errors in corners.items() if setting.estimator == estimator}
            best = max(mine, key=lambda setting: pose_auc(mine[setting].ravel(), [5])[0])
            figures = figures_of(matched[best.ratio], mine[best])
            figures["all"] |= {"ratio": best.ratio, "threshold": best.threshold}
            figures["all"] |= {"seconds per image": seconds, "seconds per match": match_seconds[best.ratio]}
            accuracy = [accuracy_at(matched[best.ratio], pixels) for pixels in _MMA]
            details: dict[str, Any] = {
                "settings": [asdict(s) | {"figures": figures_of(matched[s.ratio], e)} for s, e in mine.items()],
                "corner errors": mine[best].tolist(),
            }
            results.append(
                Result(label_of(source, estimator, options.estimator), figures, (list(_MMA), accuracy), details)
            )
        if options.format == "d2net":
            _write_d2net(options.out / f"{source.label.replace('/', '-')}.npy", pairs, matched[best.ratio])
    names = [(pair.view0.name, pair.view1.name) for pair in pairs]
    title = f"homographies, {counted(len(pairs), 'pair')} of {root}"
    note = best_of("AUC@5 of the corner error", options.ratio, options.threshold, options.matcher)
    report = Report(title, results, note, FORMATS, AXES, {"pairs": names})
    write_report(report, options, options.json, options.plot)
    return report


def _measure(
    source: Source, pairs: Sequence[HomographyPair], options: HomographyOptions
) -> tuple[
    dict[float | None, list[PairResult]],
    dict[Setting, Float[np.ndarray, "pairs runs"]],
    dict[float | None, float],
]:
    """Matching results per ratio, corner errors per setting, and seconds of matching per pair for each ratio."""
    matcher = Matcher(options)
    matched: dict[float | None, list[PairResult]] = {}
    corners: dict[Setting, Float[np.ndarray, "pairs runs"]] = {}
    seconds: dict[float | None, float] = {}
    for ratio in matcher.ratios:
        settings = [Setting(e, ratio, t) for e in options.estimator for t in options.threshold]
        errors = np.empty((len(settings), len(pairs), options.runs))
        matched[ratio], seconds[ratio] = [], 0.0
        name = f"{source.label}: matches{'' if ratio is None else f' at {ratio:g}'}"
        for k, pair in enumerate(track(pairs, name, "pair")):
            start = perf_counter()
            indices = matcher.match(source, pair.view0, pair.view1, ratio).indices.numpy()
            seconds[ratio] += (perf_counter() - start) / len(pairs)
            points0, points1 = (source.features(v).keypoints.double().numpy() for v in (pair.view0, pair.view1))
            size0, size1 = image_size(pair.view0.path), image_size(pair.view1.path)
            matched[ratio].append(match_result(pair, points0, points1, indices, size0, size1))
            p0, p1 = points0[indices[:, 0]], points1[indices[:, 1]]
            for i, setting in enumerate(settings):
                for run in range(options.runs):
                    found = _estimator(setting.estimator)(p0, p1, threshold=setting.threshold, seed=run)
                    errors[i, k, run] = corner_error(None if found is None else found[0], pair.H, size0)
        corners |= {setting: errors[i] for i, setting in enumerate(settings)}
    return matched, corners, seconds


def match_result(
    pair: HomographyPair,
    points0: Float[np.ndarray, "n 2"],
    points1: Float[np.ndarray, "m 2"],
    indices: np.ndarray,
    size0: tuple[int, int],
    size1: tuple[int, int],
) -> PairResult:
    """Compute the figures of one pair.

    points0, points1: keypoints in pixels.
    indices: matches (K, 2).
    size0, size1: (width, height) of the images.
    """
    errors = transfer_error(pair.H, points0[indices[:, 0]], points1[indices[:, 1]])
    seen0 = covisible(pair.H, points0, size1)
    seen1 = covisible(np.linalg.inv(pair.H), points1, size0)
    shared = seen0[indices[:, 0]] & seen1[indices[:, 1]]
    correct = int(((errors <= _CORRECT) & shared).sum())
    return PairResult(
        pair.kind,
        (len(points0), len(points1)),
        errors,
        repeatability(pair.H, points0, points1, seen0, seen1, _CORRECT),
        matching_score(correct, int(seen0.sum()), int(seen1.sum())),
    )


def _estimator(name: str) -> Callable[..., Any]:
    if name == "poselib":
        return estimate_homography
    from disk.colmap.estimation import estimate_homography as by_pycolmap

    return by_pycolmap


def accuracy_at(results: Sequence[PairResult], pixels: float | int) -> float:
    """Mean matching accuracy (D2-Net): the fraction of matches within a number of pixels, averaged over pairs.

    A pair without matches counts as 0.
    """
    return float(np.mean([(r.errors <= pixels).mean() if len(r.errors) else 0.0 for r in results]))


def figures_of(results: Sequence[PairResult], corners: Float[np.ndarray, "pairs runs"]) -> dict[str, dict[str, Value]]:
    """Compute the figures per split; fractions are in percent.

    corners: corner errors in pixels, infinite if there is no homography.
    """
    figures: dict[str, dict[str, Value]] = {}
    for split, kinds in _SPLITS.items():
        chosen = [k for k, result in enumerate(results) if result.kind in kinds]
        if not chosen or (split != "all" and len(chosen) == len(results)):
            continue
        part, errors = [results[k] for k in chosen], corners[chosen].ravel()
        auc = pose_auc(errors, _CORNERS)
        figures[split] = {
            "keypoints": float(np.mean([result.keypoints for result in part])),
            "matches": float(np.mean([len(result.errors) for result in part])),
            "correct matches": float(np.mean([(result.errors <= _CORRECT).sum() for result in part])),
            **{f"MMA@{pixels}": 100 * accuracy_at(part, pixels) for pixels in _MMA},
            "repeatability": 100 * float(np.mean([result.repeatability for result in part])),
            "matching score": 100 * float(np.mean([result.matching_score for result in part])),
            **{f"corners within {pixels} px": 100 * float((errors <= pixels).mean()) for pixels in _CORNERS},
            **{f"AUC@{pixels}": 100 * area for pixels, area in zip(_CORNERS, auc, strict=True)},
            "failures": int(np.isinf(errors).sum()),
        }
    return figures


def _write_d2net(path: Path, pairs: Sequence[HomographyPair], results: Sequence[PairResult]) -> None:
    """Write an array of three objects: {pixels: sum of accuracies} of i and of v, [kinds, keypoints, matches].

    Sequence by sequence, keypoints are those of images 1 to 6 and matches those of pairs (1, 2) to (1, 6).
    """
    accuracies = {
        kind: {
            pixels: sum(float((r.errors <= pixels).mean()) for r in results if r.kind == kind and len(r.errors))
            for pixels in _D2NET_PIXELS
        }
        for kind in "iv"
    }
    keypoints: dict[Path, int] = {}
    for pair, result in zip(pairs, results, strict=True):
        keypoints[pair.view0.path], keypoints[pair.view1.path] = result.keypoints
    stored = np.empty(3, dtype=object)
    stored[0], stored[1] = accuracies["i"], accuracies["v"]
    stored[2] = [
        np.array([r.kind for r in results]),
        np.array(list(keypoints.values())),
        np.array([len(r.errors) for r in results]),
    ]
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, stored, allow_pickle=True)
    log.info("wrote %s", path)


FORMATS = {
    "keypoints": ".0f",
    "matches": ".0f",
    "correct matches": ".0f",
    "failures": "d",
    "ratio": "g",
    "threshold": "g",
    "seconds per image": ".3f",
    "seconds per match": ".3f",
}
AXES = ("error of a match (pixels)", "mean matching accuracy")
