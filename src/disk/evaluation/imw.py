"""Stereo task on scenes of the Image Matching Workshop benchmark (Jin et al., IJCV 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from disk.errors import EvaluationError
from disk.evaluation.ground_truth import read_imw_scene
from disk.evaluation.options import PoseOptions
from disk.evaluation.poses import (
    AXES,
    FORMATS,
    Outcome,
    best_of,
    figures_of,
    label_of,
    measure,
    recall_curve,
    seconds_of,
    settings_of,
    views,
)
from disk.evaluation.report import Report, Result, Value, write_report
from disk.evaluation.sources import open_sources
from disk.geometry.auc import mean_average_accuracy
from disk.options import AnyPath
from disk.progress import counted

_MEAN = "mean of the scenes"


@dataclass(frozen=True, kw_only=True)
class ImwOptions(PoseOptions):
    """Options of the stereo task of the IMW benchmark."""

    visibility: str = "0.1"
    """Use the pairs of new-vis-pairs/keys-th-VISIBILITY.npy; the benchmark reports 0.1."""
    legacy: bool = False
    """Also report mAA(10) with half the rotation angle, as the original DISK logged it: too high, only for
    comparison."""


def evaluate_imw(scenes: Sequence[AnyPath], options: ImwOptions = ImwOptions()) -> Report:
    """Evaluate stereo mAA(10) for each scene and its mean over scenes; prints a table and writes requested files.

    Ratio and threshold are chosen once for all scenes. For several scenes, --features FOLDER may contain a folder of
    artifacts per scene, as in a submission.
    scenes: folders of the scenes.

    Raises EvaluationError if a scene cannot be used.
    """
    options.check()
    if not scenes:
        raise EvaluationError("no scenes; give one or more scene folders")
    folders = [Path(scene) for scene in scenes]
    ground_truth = {scene.resolve().name: read_imw_scene(scene, options.visibility) for scene in folders}
    if len(ground_truth) < len(scenes):
        raise EvaluationError("two scenes share a name; evaluate them separately")
    outcomes = {}
    seconds: dict[tuple[str, int], float | None] = {}
    for name, pairs in ground_truth.items():
        sources = open_sources(options, name)
        for i, source in enumerate(sources):
            seconds[name, i] = source.prepare(views(pairs))
            outcomes[name, i] = measure(source, pairs, options)
    results = []
    for i, source in enumerate(sources):
        for estimator in options.estimator:
            settings = [s for s in outcomes[next(iter(ground_truth)), i] if s.estimator == estimator]
            best = max(settings, key=lambda s: np.mean([_maa(outcomes[name, i][s]) for name in ground_truth]))
            figures: dict[str, dict[str, Value]] = {}
            for name in ground_truth:
                outcome = outcomes[name, i][best]
                times = {"seconds per image": seconds[name, i], **seconds_of(outcome)}
                figures[name] = _figures(outcome, options.legacy) | times
            if len(ground_truth) > 1:
                figures[_MEAN] = _mean(list(figures.values()))
            figures["chosen"] = {"ratio": best.ratio, "threshold": best.threshold}
            details = {
                name: {
                    "settings": settings_of({s: outcomes[name, i][s] for s in settings}),
                    "errors": outcomes[name, i][best].errors.tolist(),
                }
                for name in ground_truth
            }
            errors = np.concatenate([outcomes[name, i][best].errors for name in ground_truth])
            label = label_of(source, estimator, options.estimator)
            results.append(Result(label, figures, recall_curve(errors), {"scenes": details}))
    count = sum(map(len, ground_truth.values()))
    title = f"IMW stereo, {counted(count, 'pair')} of {', '.join(ground_truth)}"
    report = Report(
        title, results, best_of("mAA(10)", options.ratio, options.threshold, options.matcher), FORMATS, AXES
    )
    write_report(report, options, options.json, options.plot)
    return report


def _maa(outcome: Outcome) -> float:
    return mean_average_accuracy(outcome.errors)


def _figures(outcome: Outcome, legacy: bool) -> dict[str, Value]:
    figures = figures_of(outcome)
    if legacy:
        halved = np.maximum(outcome.rotation / 2, outcome.translation)
        figures["mAA(10), halved angle"] = 100 * mean_average_accuracy(halved)
    return figures


def _mean(scenes: Sequence[dict[str, Value]]) -> dict[str, Value]:
    """Mean of each figure over the scenes, whatever their numbers of pairs, as in the benchmark; sum of failures."""
    means: dict[str, Value] = {}
    for name in scenes[0]:
        values = [value for value in (scene[name] for scene in scenes) if isinstance(value, (int, float))]
        if not values:
            means[name] = None
        elif name == "failures":
            means[name] = sum(values)
        else:
            means[name] = float(np.mean(values))
    return means
