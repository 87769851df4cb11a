"""From a list of pose errors to one figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pose_auc(errors: Sequence[float | int] | np.ndarray, thresholds: Sequence[float | int]) -> list[float]:
    """Area under the curve of recall over error, from 0 to each threshold, divided by it: 0 to 1.

    The curve goes in straight lines from (0, 0) through (e_k, k / n), the sorted errors, and stays level
    from the last of them to the threshold; it is integrated exactly, without bins (Sarlin et al., SuperGlue,
    CVPR 2020). A failure is an infinite error. No errors at all give nan.
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
    """Mean over 1, 2, ..., threshold degrees of the share of errors below it, 0 to 1: IMW's mAA.

    A histogram with one-degree bins (the last one closed), cumulated and averaged (Jin et al., Image Matching
    across Wide Baselines, IJCV 2021). No errors at all give nan.
    """
    if len(errors) == 0:
        return float("nan")
    counts, _ = np.histogram(np.asarray(errors, dtype=np.float64), bins=np.arange(threshold + 1))
    return float(np.cumsum(counts).mean() / len(errors))
