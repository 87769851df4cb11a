"""Stored features: artifacts in our layout or IMW's, or files in hloc's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from disk.errors import ArtifactError
from disk.evaluation.ground_truth import View
from disk.features import Features
from disk.options import option
from disk.progress import counted, log
from disk.storage.layouts import HlocFeatures, open_features


class StoredFeatures:
    """Reads the best features of each view.

    Raises ArtifactError if `path` contains no features.
    """

    def __init__(self, label: str, path: Path, n: int) -> None:
        self.label = label
        self._path, self._n = path, n
        self._store: Any = open_features(path)

    def prepare(self, views: Iterable[View]) -> None:
        """Raise ArtifactError unless all views have features, and scores if the best must be selected."""
        names = sorted({view.name for view in views})
        missing = [name for name in names if name not in self._store.names]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ArtifactError(f"{self._path} has no features of {missing[0]!r}{more}")
        if isinstance(self._store, HlocFeatures):  # the other layouts are sorted by score
            self._check_scores(self._store, names)

    def _check_scores(self, store: HlocFeatures, names: Sequence[str]) -> None:
        counts = {name: len(store.keypoints(name)) for name in names if not store.has_scores(name)}
        if not counts:
            return
        name = max(counts, key=lambda name: counts[name])
        if counts[name] > self._n:
            raise ArtifactError(
                f"{self._path} has no scores for {name!r}, so the best {self._n} of its {counts[name]} keypoints "
                f"cannot be selected; use {option('n', counts[name])} or more"
            )
        log.warning("%s has no scores for %s: using all keypoints", self._path, counted(len(counts), "image"))

    def features(self, view: View) -> Features:
        """The n best features of a view, with descriptors of unit length."""
        found = self._store[view.name]
        best = torch.argsort(found.scores, descending=True, stable=True)[: self._n]
        descriptors = found.descriptors[best]
        length = torch.linalg.vector_norm(descriptors, dim=1, keepdim=True)
        if len(best) and (length - 1).abs().max() > 1e-2:
            descriptors = descriptors / length.clamp(min=1e-9)
        return Features(found.keypoints[best], descriptors, found.scores[best])
