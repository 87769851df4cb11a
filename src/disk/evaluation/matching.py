"""Matching of two views in an evaluation."""

from __future__ import annotations

from disk.devices import choose_device
from disk.evaluation.ground_truth import View
from disk.evaluation.options import FeatureOptions
from disk.evaluation.sources import Source
from disk.evaluation.views import upright
from disk.features import Matches
from disk.matching.matcher import ImagePair, make_matcher
from disk.pipeline.match import read_lightglue


class Matcher:
    """Matches two views of a source as the options say."""

    def __init__(self, options: FeatureOptions) -> None:
        self._learned = options.matcher == "lightglue"
        weights = read_lightglue(options.matcher_weights) if self._learned else None
        # features are read to the CPU; matching one pair there takes no longer than copying it to a GPU
        device = choose_device(options.device if self._learned else "cpu")
        # LightGlue has no ratio test
        self.ratios: tuple[float | None, ...] = (None,) if self._learned else options.ratio
        self._match = {
            ratio: make_matcher(options.matcher, device, None if ratio == 1 else ratio, weights=weights)
            for ratio in self.ratios
        }

    def match(self, source: Source, view0: View, view1: View, ratio: float | None) -> Matches:
        """Match one pair.

        ratio: one of `ratios`; 1 or None: no ratio test.
        """
        f0, f1 = source.features(view0), source.features(view1)
        # nearest neighbours need no positions, and making them upright takes time
        images: ImagePair = (f0, f1, None, None)
        if self._learned:
            (upright0, size0), (upright1, size1) = upright(view0, f0), upright(view1, f1)
            images = (upright0, upright1, size0, size1)
        return self._match[ratio]([images])[0].between(f0, f1)
