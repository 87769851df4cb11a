"""Invalid options are refused in one line."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from disk.errors import ArtifactError, DiskError, EvaluationError
from disk.evaluation.options import FeatureOptions, PoseOptions, RobustOptions
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
        (lambda: FeatureOptions(features=(Path("x"),), degrade=True), "^degrade=True changes images"),
        (lambda: FeatureOptions(features=(Path("none"),)), "no features in none"),
        (lambda: FeatureOptions(weights=("none.pth",)), "none.pth"),
    ],
)
def test_invalid_options(make: Callable[[], FeatureOptions], message: str):
    with pytest.raises(DiskError, match=message) as caught:
        open_sources(make())
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, (EvaluationError, ArtifactError, DiskError))


@pytest.mark.parametrize("kind", [FeatureOptions, RobustOptions, PoseOptions])
def test_options_are_keyword_only_and_frozen(kind: type):
    with pytest.raises(TypeError):
        kind(("disk",))
    with pytest.raises(FrozenInstanceError):
        kind().n = 5


def test_the_defaults_are_those_of_the_protocol():
    """As in docs/evaluation.md."""
    options = PoseOptions()
    assert (options.n, options.max_size, options.ratio) == (2048, 1600, (0.85,))
    assert (options.threshold, options.runs, options.workers) == ((0.5, 1.0, 2.0, 3.0), 1, 1)
    assert (options.seed, options.degrade) == (0, False)


@pytest.mark.parametrize("threshold", [0.0, -0.5, float("inf")])
def test_thresholds_are_positive_and_finite(threshold: float):
    with pytest.raises(EvaluationError, match=r"^threshold: "):
        RobustOptions(threshold=(1.0, threshold)).check()
    RobustOptions(threshold=(0.01, 1000.0)).check()


def test_the_smallest_valid_values_are_accepted():
    PoseOptions(n=1, max_size=0, ratio=(1.0, 0.01), runs=1, workers=1, seed=0).check()
    for changes, message in (({"ratio": (0.0,)}, "^ratio: "), ({"runs": 0}, "runs=0"), ({"workers": 0}, "workers=0"),
                             ({"seed": -1}, "seed=-1")):  # fmt: skip
        with pytest.raises(DiskError, match=message):
            PoseOptions(**changes).check()
    FeatureOptions(degrade=True).check()
    FeatureOptions(matcher="lightglue", method=("disk",)).check()
