"""Relative pose benchmark: accuracy of the relative pose estimated from two matched images."""

from __future__ import annotations

from pathlib import Path

from disk.evaluation.ground_truth import read_pose_pairs
from disk.evaluation.options import PoseOptions
from disk.evaluation.poses import (
    AXES,
    FORMATS,
    best_of,
    figures_of,
    label_of,
    measure,
    recall_curve,
    seconds_of,
    settings_of,
    views,
)
from disk.evaluation.report import Report, Result, write_report
from disk.evaluation.sources import open_sources
from disk.geometry.auc import pose_auc
from disk.options import AnyPath
from disk.progress import counted


def evaluate_pose(pairs_file: AnyPath, images: AnyPath, options: PoseOptions = PoseOptions()) -> Report:
    """Evaluate relative poses on a list of pairs with ground truth; prints a table and writes requested files.

    pairs_file: pairs with ground truth; see `read_pose_pairs`.
    images: folder of the images.

    Raises EvaluationError with the line number if the ground truth cannot be used.
    """
    options.check()
    pairs = read_pose_pairs(Path(pairs_file), Path(images))
    results = []
    for source in open_sources(options):
        seconds = source.prepare(views(pairs))
        outcomes = measure(source, pairs, options)
        for estimator in options.estimator:
            mine = {setting: outcome for setting, outcome in outcomes.items() if setting.estimator == estimator}
            best = max(mine, key=lambda setting: pose_auc(mine[setting].errors, [10])[0])
            figures = figures_of(mine[best]) | {"ratio": best.ratio, "threshold": best.threshold}
            results.append(
                Result(
                    label_of(source, estimator, options.estimator),
                    {"": figures | {"seconds per image": seconds} | seconds_of(mine[best])},
                    recall_curve(mine[best].errors),
                    {"settings": settings_of(mine), "errors": mine[best].errors.tolist()},
                )
            )
    names = [(pair.view0.name, pair.view1.name) for pair in pairs]
    title = f"relative pose, {counted(len(pairs), 'pair')} of {pairs_file}"
    report = Report(
        title,
        results,
        best_of("AUC@10", options.ratio, options.threshold, options.matcher),
        FORMATS,
        AXES,
        {"pairs": names},
    )
    write_report(report, options, options.json, options.plot)
    return report
