"""Summary figures of pose errors: AUC and mAA."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pose_auc(errors: Sequence[float | int] | np.ndarray, thresholds: Sequence[float | int]) -> list[float]:
    """Area under the recall curve from 0 to each threshold, divided by the threshold: 0 to 1.

    The curve is piecewise linear from (0, 0) through the sorted errors (e_k, k / n), and level from the last of them to
    the threshold. It is integrated exactly, without bins (Sarlin et al., SuperGlue, CVPR 2020). An empty list gives
    nan.
    errors: failures are infinite.
    thresholds: in the unit of the errors.
    """
    if len(errors) == 0:
        return [float("nan")] * len(thresholds)
    sorted_errors = np.concatenate([[0.0], np.sort(np.asarray(errors, dtype=np.float64))])
    recall = np.arange(len(sorted_errors)) / (len(sorted_errors) - 1)
    areas = []
    for threshold in thresholds:
        below = int(np.searchsorted(sorted_errors, threshold))
        x = np.append(sorted_errors[:below], threshold)
        y = np.append(recall[:below], recall[below - 1])
        areas.append(float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum() / threshold))
    return areas


def mean_average_accuracy(errors: Sequence[float | int] | np.ndarray, threshold: int = 10) -> float:
    """IMW's mAA: the fraction of errors below 1, 2, ..., threshold degrees, averaged; 0 to 1.

    It is the mean of the cumulative histogram with one-degree bins, of which the last is closed (Jin et al., Image
    Matching across Wide Baselines, IJCV 2021). An empty list gives nan.
    errors: in degrees.
    threshold: in degrees.
    """
    if len(errors) == 0:
        return float("nan")
    counts, _ = np.histogram(np.asarray(errors, dtype=np.float64), bins=np.arange(threshold + 1))
    return float(np.cumsum(counts).mean() / len(errors))
