"""Points that two images share."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from disk.geometry.covisibility import shared_points


@given(st.lists(st.sets(st.integers(0, 12)), max_size=6))
def test_shared_points_are_in_both(seen: list[set[int]]) -> None:
    found = shared_points([np.array(sorted(ids), np.int64) for ids in seen])
    for a, one in enumerate(seen):
        for b, other in enumerate(seen):
            assert found[a, b] == (len(one & other) if a != b else 0)
