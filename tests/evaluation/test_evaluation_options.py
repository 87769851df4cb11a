"""Options that make no sense are refused in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from disk.errors import ArtifactError, DiskError, EvaluationError
from disk.evaluation.options import FeatureOptions
from disk.evaluation.sources import open_sources


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureOptions(n=0), "n=0"),
        (lambda: FeatureOptions(max_size=-1), "max_size=-1"),
        (lambda: FeatureOptions(ratio=()), "^ratio: "),
        (lambda: FeatureOptions(ratio=(0.8, 1.2)), "^ratio: "),
        (lambda: FeatureOptions(method=("sift",), matcher="lightglue"), "^matcher='lightglue' is for"),
        (lambda: FeatureOptions(matcher_weights=Path("x.pth")), "^matcher_weights is for"),
        (lambda: FeatureOptions(features=(Path("x"),), degrade=True), "^degrade=True spoils images"),
        (lambda: FeatureOptions(features=(Path("none"),)), "no features in none"),
        (lambda: FeatureOptions(weights=("none.pth",)), "none.pth"),
    ],
)
def test_options_that_make_no_sense(make: Callable[[], FeatureOptions], message: str):
    with pytest.raises(DiskError, match=message) as caught:
        open_sources(make())
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, (EvaluationError, ArtifactError, DiskError))
