"""Matches written by the original are continued if they belong to the same features."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from made_features import contents, expected

from disk.errors import ArtifactError
from disk.pipeline.match import match
from disk.pipeline.match_options import MatchOptions


def theirs(artifacts: Path, **groups: dict[str, list]) -> Path:
    """A matches.h5 as the original writes it: no attributes."""
    with h5py.File(artifacts / "matches.h5", "w") as file:
        for first, seconds in groups.items():
            for second, matches in seconds.items():
                file.create_group(first, track_order=False) if first not in file else None
                file[first][second] = np.array(matches, np.int64).reshape(2, -1)
    return artifacts / "matches.h5"


def test_the_originals_matches_are_continued(artifacts, caplog):
    theirs(artifacts, a={"b": [[0, 1], [2, 3]], "sub|one": []})
    summary = match(artifacts, MatchOptions(rt=0.9, device="cpu"))
    assert (summary.pairs, summary.matched) == (10, 8)
    assert "its matches of 2 pairs are kept" in caplog.text
    found = contents(artifacts / "matches.h5")
    assert len(found) == 10
    assert found["a b"][1] == [[0, 1], [2, 3]]
    np.testing.assert_array_equal(found["b sub|c"][1], expected(artifacts, ("b", "sub/c"), 0.9))
    # from now on the file is ours, and other options do not continue it
    with pytest.raises(ArtifactError, match=r"rt 0\.9 there, 0\.8 now"):
        match(artifacts, MatchOptions(rt=0.8, device="cpu"))


@pytest.mark.parametrize(
    "groups",
    [
        {"a": {"b": [[0, 40], [2, 3]]}},  # `a` has 40 features
        {"a": {"b": [[0, 1], [2, -3]]}},
        {"a": {"nobody": [[0], [2]]}},
        {},
    ],
)
def test_matches_of_other_features_are_not_continued(artifacts, groups):
    before = theirs(artifacts, **groups).read_bytes()
    with pytest.raises(ArtifactError, match="not written by this command"):
        match(artifacts, MatchOptions(device="cpu"))
    assert (artifacts / "matches.h5").read_bytes() == before
